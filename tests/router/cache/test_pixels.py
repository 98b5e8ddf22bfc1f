"""Pictures by what they show: equal pixels in other files are equal, and one pixel makes a difference."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from PIL import Image

from engines.base import ImagePart
from router.cache import pixels as pixels_module
from router.cache.pixels import PixelHashes, hash_pixels
from tests.support.pictures import png, to_part

_ORIENTATION = 0x0112


def scene() -> Image.Image:
    image = Image.new("RGB", (6, 4), "white")
    image.putpixel((1, 2), (255, 0, 0))
    return image


def turned() -> ImagePart:
    """The scene lying on its side, with the note that turns it upright."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return to_part(scene().transpose(Image.Transpose.ROTATE_90), exif=exif)


def transparent() -> ImagePart:
    """The scene with nothing where it is white, which is laid on white."""
    image = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    image.putpixel((1, 2), (255, 0, 0, 255))
    return to_part(image)


SAME = {
    "packed harder": to_part(scene(), compress_level=9),
    "a bitmap": to_part(scene(), "BMP"),
    "lossless WebP": to_part(scene(), "WEBP", lossless=True),
    "a palette": to_part(scene().convert("P", palette=Image.Palette.ADAPTIVE)),
    "transparent": transparent(),
    "turned by EXIF": turned(),
}


@pytest.fixture
def hashes() -> Iterator[PixelHashes]:
    hashes = PixelHashes()
    yield hashes
    hashes.close()


@pytest.mark.parametrize("name", SAME)
def test_the_same_pixels_in_another_file_are_the_same_picture(name: str) -> None:
    assert hash_pixels(SAME[name]) == hash_pixels(to_part(scene(), compress_level=1))


def test_one_pixel_makes_another_picture() -> None:
    other = scene()
    other.putpixel((5, 3), (255, 255, 254))

    assert hash_pixels(to_part(other)) != hash_pixels(to_part(scene()))


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    assert hash_pixels(to_part(Image.new("RGB", (2, 6)))) != hash_pixels(to_part(Image.new("RGB", (6, 2))))


async def test_a_file_is_decoded_once_also_for_those_who_ask_at_the_same_time(hashes: PixelHashes) -> None:
    pair = [png("red"), png("blue")]

    found = await asyncio.gather(*(hashes.of(pair) for _ in range(20)))

    assert hashes.num_decoded == 2
    assert len(set(found)) == 1
    assert hashes.known(pair) == found[0]


async def test_who_hangs_up_takes_nothing_from_the_others(hashes: PixelHashes) -> None:
    first, second = asyncio.create_task(hashes.of([png("red")])), asyncio.create_task(hashes.of([png("red")]))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == (hash_pixels(png("red")),)
    assert hashes.num_decoded == 1


async def test_what_does_not_decode_has_no_hash(hashes: PixelHashes) -> None:
    whole = png("red", 64)
    half = ImagePart(whole.data[: len(whole.data) // 2], whole.media_type, "half")

    assert await hashes.of([png("red"), half]) is None


async def test_a_picture_too_large_to_decode_here_is_its_file(
    hashes: PixelHashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels_module, "MAX_PIXELS", 15)

    assert await hashes.of([png("red", 4)]) == (png("red", 4).sha256,)


async def test_where_too_many_wait_no_more_are_decoded(hashes: PixelHashes, monkeypatch: pytest.MonkeyPatch) -> None:
    await hashes.of([png("red")])
    monkeypatch.setattr(pixels_module, "_MAX_WAITING", 0)

    assert await hashes.of([png("blue")]) is None
    assert await hashes.of([png("red")]) is not None


async def test_a_picture_that_is_asked_about_again_is_not_forgotten_first(
    hashes: PixelHashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels_module, "_MAX_KNOWN", 2)
    often, once, new = (to_part(Image.new("RGB", (3, 3), (level, 0, 0))) for level in (1, 2, 3))
    await hashes.of([often])
    await hashes.of([once])
    await hashes.of([often])
    await hashes.of([new])
    assert hashes.known([often]) is not None
    assert hashes.known([once]) is None
