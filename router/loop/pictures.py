"""What is measured of a picture, so that near copies are known and reports can say what people send.

In: an encoded picture. Out: its size, its kind, and a small grey picture of it, by which copies that were scaled,
recompressed or dimmed are found. The picture itself is decoded once, beside the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, cast

from PIL import Image, ImageChops, ImageFilter, ImageStat

from engines.base import EngineError, ImagePart
from engines.images import decode_image, picture_size

Kind = Literal["page", "graphic", "photo", "unknown"]

# As `router.cache.pixels` has it: a picture of so many pixels takes 50 MB while it is decoded.
_MAX_PIXELS: Final = 16_000_000
SIDE: Final = 32
# Two are copies if no 3 x 3 cells of their small pictures differ by more grey levels. Measured on receipts of 160 x 224
# px: up to 11 after recompression to quality 30, scaling up and dimming; 39 after halving; 19 for another digit of a
# price; 50 and more for other receipts of the same form. Cropped copies (94) are not found.
NEAR: Final = 24
# Mean and spread of the grey levels of every small picture.
_MEAN, _SPREAD, _LEAST_SPREAD = 128, 48, 4.0
# Cells that two pictures are compared by first; not neighbours, which say the same twice.
_KEY_CELLS, _STRIDE, _SAMPLE = 48, 7, 200
# Beyond this mean brightness and below this mean colour, it is paper.
_PAPER_LIGHT, _PAPER_COLOUR = 180, 24
_FEW_COLOURS: Final = 64


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a picture.

    Attributes:
        sha256: of its bytes.
        media_type: as the bytes say.
        num_bytes: encoded.
        width_px: upright; 0 if it could not be read.
        height_px: likewise.
        kind: ``page``: light and without colour; ``graphic``: few colours; ``photo``: the rest.
        small: `SIDE` x `SIDE` grey levels, all pictures equally light and of equal contrast; empty if it was not
            decoded.
    """

    sha256: str
    media_type: str
    num_bytes: int
    width_px: int = 0
    height_px: int = 0
    kind: Kind = "unknown"
    small: bytes = b""


def look_at(image: ImagePart) -> Look:
    """Decode a picture and measure it; one that does not decode, or is very large, is measured by its header."""
    found = Look(image.sha256, image.media_type, len(image.data))
    try:
        width, height = picture_size(image)
        found = Look(image.sha256, image.media_type, len(image.data), width, height)
        if width * height > _MAX_PIXELS:
            return found
        pixels = decode_image(image)
    except EngineError:
        return found
    return Look(
        image.sha256, image.media_type, len(image.data), pixels.width, pixels.height, _kind_of(pixels), to_small(pixels)
    )


def to_small(pixels: Image.Image) -> bytes:
    """Return the small picture of an RGB one."""
    grey = pixels.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    found = ImageStat.Stat(grey)
    mean, scale = found.mean[0], _SPREAD / max(found.stddev[0], _LEAST_SPREAD)
    return grey.point([max(0, min(255, round(_MEAN + (level - mean) * scale))) for level in range(256)]).tobytes()


def difference(one: bytes, other: bytes) -> int:
    """Return by how many grey levels two small pictures differ where they differ most, over 3 x 3 cells."""
    pair = [Image.frombytes("L", (SIDE, SIDE), each) for each in (one, other)]
    _, most = ImageChops.difference(*pair).filter(ImageFilter.BoxBlur(1)).getextrema()
    return int(cast("float", most))


def group_near(small: Mapping[str, bytes]) -> dict[str, str]:
    """Put near copies, and near copies of those, into one group.

    Args:
        small: by SHA-256; an empty one is near nothing.

    Returns:
        By SHA-256, the smallest SHA-256 of its group.
    """
    groups = Groups(small)
    keys = _keys_of({sha256: each for sha256, each in small.items() if each})
    for place, (key, sha256) in enumerate(keys):
        for other_key, other in islice(keys, place + 1, None):
            if other_key[0] - key[0] > NEAR:
                break
            for a, b in zip(key, other_key, strict=True):  # most pairs end here, after a few numbers
                if not -NEAR <= a - b <= NEAR:
                    break
            else:
                if difference(small[sha256], small[other]) <= NEAR:
                    groups.join(sha256, other)
    return {sha256: groups.find(sha256) for sha256 in small}


def _keys_of(small: Mapping[str, bytes]) -> list[tuple[tuple[int, ...], str]]:
    """Return the blurred cells in which these pictures differ most from each other, those first, in their order.

    What differs little over 3 x 3 cells does so after a blur over as many: two keys of near copies differ by no more.
    """
    blurred = {
        sha256: Image.frombytes("L", (SIDE, SIDE), each).filter(ImageFilter.BoxBlur(1)).tobytes()
        for sha256, each in small.items()
    }
    sample = list(blurred.values())[:_SAMPLE]
    spread = [_variance(values) for values in zip(*sample, strict=True)]
    cells = sorted(range(len(spread)), key=lambda cell: -spread[cell])[::_STRIDE][:_KEY_CELLS]
    return sorted((tuple(each[cell] for cell in cells), sha256) for sha256, each in blurred.items())


def _variance(values: Sequence[int]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


class Groups:
    """Disjoint sets of names; each is known by its smallest member.

    Args:
        names: each a set of its own.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._parents = {name: name for name in names}

    def find(self, name: str) -> str:
        """Return the smallest member of a name's set."""
        while (parent := self._parents.setdefault(name, name)) != name:
            self._parents[name] = self._parents[parent]
            name = parent
        return name

    def join(self, one: str, other: str) -> None:
        """Make one set of two."""
        first, second = sorted((self.find(one), self.find(other)))
        self._parents[second] = first


def _kind_of(pixels: Image.Image) -> Kind:
    small = pixels.resize((64, 64), Image.Resampling.BOX)
    light = small.convert("L").resize((1, 1), Image.Resampling.BOX).tobytes()[0]
    colour = small.convert("HSV").getchannel("S").resize((1, 1), Image.Resampling.BOX).tobytes()[0]
    if light >= _PAPER_LIGHT and colour <= _PAPER_COLOUR:
        return "page"
    nearest = pixels.resize((64, 64), Image.Resampling.NEAREST)
    return "graphic" if nearest.getcolors(_FEW_COLOURS) is not None else "photo"
