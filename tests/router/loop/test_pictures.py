from __future__ import annotations

import hashlib
import io
import random

import pytest
from PIL import Image, ImageDraw, ImageEnhance

from engines.base import ImagePart
from router.loop.pictures import Groups, group_near, look_at


def _page(number: int) -> Image.Image:
    """A page of lines whose lengths follow from its number."""
    rng = random.Random(number)
    page = Image.new("RGB", (320, 448), (250, 250, 246))
    draw = ImageDraw.Draw(page)
    for row in range(12):
        draw.rectangle((16, 20 + 34 * row, 16 + rng.randint(30, 280), 38 + 34 * row), fill=(40, 40, 44))
    return page


def _part(picture: Image.Image, form: str = "PNG", **options: int) -> ImagePart:
    file = io.BytesIO()
    picture.save(file, form, **options)
    data = file.getvalue()
    return ImagePart(data, f"image/{form.lower()}", hashlib.sha256(data).hexdigest())


def test_near_copies_are_one_group_and_other_pages_are_not() -> None:
    # Given a page, copies of it, and pages of the same form with other words
    page = _page(0)
    copies = [
        _part(page),
        _part(page, "JPEG", quality=40),
        _part(page.resize((160, 224))),
        _part(ImageEnhance.Brightness(page).enhance(0.7)),
    ]
    others = [_part(_page(number)) for number in range(1, 9)]
    looks = [look_at(each) for each in [*copies, *others]]
    # When they are grouped
    groups = group_near({look.sha256: look.small for look in looks})
    # Then the copies are together, and each other page is alone
    assert len({groups[look.sha256] for look in looks[:4]}) == 1
    assert len(set(groups.values())) == 1 + len(others)


def test_a_copy_of_a_copy_is_in_the_group() -> None:
    groups = Groups("abcd")
    groups.join("c", "b")
    groups.join("d", "c")
    assert [groups.find(each) for each in "abcd"] == ["a", "b", "b", "b"]


@pytest.mark.parametrize("kind", ["page", "graphic", "photo"])
def test_kinds_are_told_apart(kind: str) -> None:
    if kind == "photo":
        picture = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    else:
        picture = _page(3) if kind == "page" else Image.new("RGB", (90, 60), (200, 30, 30))
    look = look_at(_part(picture))
    assert (look.kind, look.width_px, look.height_px) == (kind, *picture.size)


def test_what_does_not_decode_is_known_by_its_header() -> None:
    # Given a picture of which the second half is missing, and something that is no picture
    whole = _part(_page(1))
    cut = ImagePart(whole.data[:200], "image/png", "a" * 64)
    look = look_at(cut)
    assert (look.kind, look.width_px, look.height_px, look.small) == ("unknown", 320, 448, b"")
    assert look_at(ImagePart(b"no", "image/png", "b" * 64)).width_px == 0
    # Then they are near nothing
    assert group_near({"a": b"", "b": b""}) == {"a": "a", "b": "b"}
