"""From encoded picture bytes to upright 8-bit RGB pixels: the one full decode, done in a pool beside the model thread.

In: an `ImagePart` as it came through the door. Out: a Pillow image, or an `InvalidImageError` that says what is wrong.
Shared by both local engines; needs Pillow only.
"""

from __future__ import annotations

import io
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from PIL import Image, ImageOps

from engines.base import EngineError, EngineOverloadedError, ImagePart, InvalidImageError
from engines.image_header import ACCEPTED_TYPES, ImageHeader, fit_size, read_header, sniff_media_type
from engines.image_layout import (
    JPEG_END,
    TooManyBlocksError,
    has_too_many_scans,
    lacks_jpeg_end,
    next_jpeg_restart,
    strip_jpeg,
    strip_png,
)

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Multi-picture JPEGs of phones ("MPO") carry a preview or a depth map behind the picture; they are no animation.
_ONE_FRAME_IS_ENOUGH = frozenset({"JPEG", "MPO"})
# The door bounds pixels first; these guard engines that are called without it.
MAX_PIXELS = 80_000_000
MAX_REQUEST_PIXELS = 4 * MAX_PIXELS
# Processor time of one picture; 40 megapixels of noise take 0.5 s as JPEG, 1 s as PNG and 3 s as WebP.
MAX_DECODE_S: Final = 15.0
# Below this a picture is decoded whole, so that what the model sees of it does not depend on the decoder's arithmetic.
_REDUCED_FROM_PIXELS: Final = 16_000_000
_REDUCTIONS: Final = (8, 4, 2)
_BAND_ROWS: Final = 128
_AVERAGED_MODES: Final = frozenset({"L", "LA", "RGB", "RGBA"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
PARSE_ERROR = "image_parse_error"
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
_PNG_ORIENTATION = (b"eXIf", b"exif", b"tiff:Orientation")
# Put behind a JPEG that breaks off: bytes that no encoder writes, the same in every process.
_NOISE: Final = random.Random(0).randbytes(512).replace(b"\xff", b"\xfe")  # noqa: S311 - not for security

log = logging.getLogger(__name__)


class DecodeGoneError(Exception):
    """The request ended while its picture was decoded."""


class _Source(io.BytesIO):
    """An encoded file that stops being readable when its decoding has taken too long, or is wanted no more.

    Decoders read a file in pieces of 64 KB, and ask here for each.
    """

    def __init__(self, part: ImagePart, data: bytes, is_wanted: Callable[[], bool], until: float) -> None:
        super().__init__(data)
        self._part = part
        self._is_wanted = is_wanted
        self._until = until

    def read(self, size: int | None = -1, /) -> bytes:
        if not self._is_wanted():
            raise DecodeGoneError
        if time.thread_time() > self._until:
            raise _refusal(
                self._part,
                f"The picture takes over {MAX_DECODE_S:.0f} s to decode. Save it again as an ordinary PNG or JPEG.",
                code="image_too_large",
            )
        return super().read(size)


def decode_image(
    part: ImagePart,
    *,
    max_side_px: int | None = None,
    seen_pixels: int | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Image.Image:
    """Decode a picture fully, turn it upright and make it plain RGB.

    EXIF rotation is applied, transparency is laid on white, palettes, CMYK, grey and 16-bit samples become 8-bit RGB.
    Texts and colour profiles are not read, so it does not matter if they are damaged or huge. A JPEG may lack its end
    marker if all pixels are there.

    Args:
        part: the encoded picture.
        max_side_px: longer pictures are scaled down to this side; None keeps the size.
        seen_pixels: the model scales pictures down to at most so many pixels. One of over 16 megapixels is then taken
            at 1/2, 1/4 or 1/8 of its size, as long as twice the sides that the model sees are left; JPEGs at decoding.
        is_wanted: asked now and then; once it says no, decoding stops.

    Returns:
        An image of mode ``RGB`` that holds no reference to the encoded bytes.

    Raises:
        InvalidImageError: code ``image_parse_error`` if the bytes are no complete picture, ``image_too_large`` over
            `MAX_PIXELS` or if decoding takes too long, ``invalid_image`` if it is animated or of a mode that has no RGB
            meaning.
        EngineOverloadedError: if memory runs out.
        DecodeGoneError: if it is not wanted any more.
    """
    target = picture_size(part, max_side_px=max_side_px)
    image = _load(part, seen_pixels, is_wanted)
    size = image.size
    _turn_upright(image)
    if image.size != size:
        target = target[1], target[0]
    image = _to_rgb(part, image)
    return image if target == image.size else image.resize(target, Image.Resampling.BICUBIC)


def check_request(images: Sequence[ImagePart]) -> None:
    """Refuse pictures that are too much work together, before any is decoded.

    Raises:
        InvalidImageError: as `picture_size`, or ``image_too_large`` if they have more than `MAX_REQUEST_PIXELS`.
    """
    num_pixels = 0
    for part in images:
        width, height = picture_size(part)
        num_pixels += width * height
        if num_pixels > MAX_REQUEST_PIXELS:
            raise _refusal(
                part,
                f"The pictures of the request have more than {MAX_REQUEST_PIXELS:,} pixels together.",
                code="image_too_large",
            )


def picture_size(part: ImagePart, *, max_side_px: int | None = None) -> tuple[int, int]:
    """Read the size `decode_image` will give from the header, without decoding.

    Width and height are in the file's order: a picture that EXIF turns by 90 degrees comes out of `decode_image` with
    the two swapped.

    Raises:
        InvalidImageError: as `decode_image`, for what the header shows.
    """
    return fit_size(*_open(part).size, max_side_px)


def upright_size(part: ImagePart) -> tuple[int, int]:
    """Read the width and height in pixels that a picture has once it is turned upright, as it was sent, not scaled.

    Raises:
        InvalidImageError: as `picture_size`.
    """
    image = _open(part)
    width, height = image.size
    # Pillow gives a TIFF's size upright already. A PNG may say it behind its pixels, where looking for it decodes
    # them all, so the bytes are searched first.
    if image.format == "TIFF":
        return width, height
    if image.format == "PNG" and not any(name in _to_decode(part.data) for name in _PNG_ORIENTATION):
        return width, height
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception as error:  # as in `_turn_upright`
        log.debug("EXIF orientation is unreadable: %r", error)
        return width, height
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def _refusal(part: ImagePart, message: str, code: str = "") -> InvalidImageError:
    return InvalidImageError(message, code=code or None, param=part.param or None)


def _unreadable(part: ImagePart, error: Exception) -> InvalidImageError:
    log.debug("picture %s does not decode: %r", part.sha256[:12], error)
    return _refusal(
        part,
        "The picture cannot be decoded: it is truncated or damaged, or not an image. Send a complete PNG, JPEG, WebP, "
        "GIF or BMP file.",
        code=PARSE_ERROR,
    )


def _load(part: ImagePart, seen_pixels: int | None, is_wanted: Callable[[], bool]) -> Image.Image:
    """Decode the pixels."""
    until = time.thread_time() + MAX_DECODE_S

    def load(data: bytes) -> Image.Image:
        image = _open(part, _Source(part, data, is_wanted, until))
        scale = _reduction(image, seen_pixels)
        if scale > 1 and image.format in _ONE_FRAME_IS_ENOUGH:
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        if scale > 1 and image.format not in _ONE_FRAME_IS_ENOUGH:
            return _reduce(image, scale)
        return image

    try:
        return load(_to_decode(part.data))
    except (DecodeGoneError, EngineError):
        raise
    except MemoryError as error:  # nothing is wrong with the picture
        raise _out_of_memory() from error
    except Exception as error:  # decoders fed hostile bytes raise nearly anything: OSError, struct.error, SyntaxError
        if sniff_media_type(part.data) != "image/jpeg":
            raise _unreadable(part, error) from error
        try:
            return _load_without_end(_to_decode(part.data), load)
        except (DecodeGoneError, EngineError):
            raise
        except MemoryError:
            raise _out_of_memory() from error
        except Exception:
            raise _unreadable(part, error) from error


def _load_without_end(data: bytes, load: Callable[[bytes], Image.Image]) -> Image.Image:
    """Decode a JPEG whose end marker is missing, but none of its pixels.

    The decoder does not say whether it made pixels up. So the file is decoded twice: with the end marker, before which
    it makes up zeros, and with noise before that. What it had to make up differs then.

    Raises:
        ValueError: if pixels are missing, or it has its end marker.
        Exception: what the decoder raises.
    """
    data = data.removesuffix(b"\xff")  # half of the marker
    if not lacks_jpeg_end(data):
        raise ValueError("not only the end marker is missing")
    end = bytes((0xFF, JPEG_END))
    # Where restart markers are due, the decoder takes noise for data only between them.
    restart = next_jpeg_restart(data) - 0xD0
    noise = b"".join(_NOISE + bytes((0xFF, 0xD0 + (restart + number) % 8)) for number in range(8))
    image = load(data + end)
    if image.tobytes() != load(data + noise + end).tobytes():
        raise ValueError("pixels are missing")
    return image


def _reduction(image: Image.Image, seen_pixels: int | None) -> int:
    """By how much the sides of a large picture may be divided before anything else is done with it."""
    num_pixels = image.width * image.height
    if seen_pixels is None or num_pixels <= _REDUCED_FROM_PIXELS:
        return 1
    return next((scale for scale in _REDUCTIONS if num_pixels >= 4 * seen_pixels * scale**2), 1)


def _reduce(image: Image.Image, scale: int) -> Image.Image:
    """Average squares of pixels where their mean is a colour; what follows copies the whole picture several times."""
    if image.mode not in _AVERAGED_MODES or "transparency" in image.info:
        return image
    return image.reduce(scale)


def _read_header(part: ImagePart) -> ImageHeader | None:
    """Read the header of a type that the door takes; None for the others, which Pillow knows."""
    if sniff_media_type(part.data) not in ACCEPTED_TYPES:
        return None
    try:
        return read_header(part.data)
    except TooManyBlocksError as error:
        raise _too_many_blocks(part, error) from error
    except ValueError as error:
        raise _unreadable(part, error) from error


def _open(part: ImagePart, source: io.BytesIO | None = None) -> Image.Image:
    """Open a picture without decoding it, and refuse what should not be decoded at all.

    Args:
        part: the picture.
        source: its bytes, if they are not to be taken from the part.
    """
    header = _read_header(part)  # first, as Pillow makes room for all pixels of a GIF or WebP when it opens the file
    if header is not None:
        if header.num_pixels > MAX_PIXELS:
            raise _too_large(part)
        if has_too_many_scans(header.num_scans, header.num_pixels):
            raise _refusal(
                part,
                f"The picture is a JPEG of {header.num_scans} scans, too many to decode. Save it again as an ordinary "
                "JPEG.",
                code="image_too_large",
            )
        if header.is_animated:
            raise _animated(part)
        if header.is_slow_bitmap(len(part.data)):
            raise _refusal(
                part, "The picture is a large run-length encoded BMP. Save it as a PNG.", code="image_too_large"
            )
    try:
        image = Image.open(source or io.BytesIO(_to_decode(part.data)), formats=_FORMATS)
        is_animated = image.format not in _ONE_FRAME_IS_ENOUGH and getattr(image, "is_animated", False)
    except (DecodeGoneError, EngineError):
        raise
    except TooManyBlocksError as error:
        raise _too_many_blocks(part, error) from error
    except MemoryError as error:
        raise _out_of_memory() from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(part) from error
    except Exception as error:  # as in `_load`
        raise _unreadable(part, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(part)
    if is_animated:
        raise _animated(part)
    return image


def _to_decode(data: bytes) -> bytes:
    """Leave out what the decoder need not see and might stumble over."""
    strip = {"image/png": strip_png, "image/jpeg": strip_jpeg}.get(sniff_media_type(data))
    return data if strip is None else strip(data)


def _out_of_memory() -> EngineOverloadedError:
    return EngineOverloadedError(
        "There is not enough memory to decode the picture now; try again when the engine has less to do.",
        code="out_of_memory",
    )


def _too_many_blocks(part: ImagePart, error: TooManyBlocksError) -> InvalidImageError:
    return _refusal(
        part,
        f"The picture consists of more than {error.most:,} chunks, segments, scans or extensions, too many to read. "
        "Save it again as an ordinary PNG or JPEG.",
        code="image_too_large",
    )


def _animated(part: ImagePart) -> InvalidImageError:
    return _refusal(part, "Animated and multi-page pictures are not supported: send a single frame.")


def _too_large(part: ImagePart) -> InvalidImageError:
    return _refusal(part, f"The picture has more than {MAX_PIXELS:,} pixels.", code="image_too_large")


def _turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation, without a copy; a damaged EXIF block means no rotation, since the pixels are fine."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # the EXIF parser, too, raises nearly anything
        log.debug("EXIF orientation is unreadable: %r", error)


def _to_rgb(part: ImagePart, image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        image = _to_eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "RGB":
        return image
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise _refusal(part, f"Pictures of colour mode {image.mode} are not supported: send RGB.") from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit samples by their full range, so that equal files look equally bright; others by their content."""
    # In bands: as floats, a picture of 40 megapixels takes 160 MB, twice.
    boxes = [(0, top, image.width, min(top + _BAND_ROWS, image.height)) for top in range(0, image.height, _BAND_ROWS)]
    extrema = [cast("tuple[float, float]", image.crop(box).convert("F").getextrema()) for box in boxes]
    low, high = min(each[0] for each in extrema), max(each[1] for each in extrema)
    if low >= 0 and high <= 65535 and image.mode != "F":
        low, high = 0.0, 65535.0
    scale = 255.0 / max(high - low, 1e-9)
    found = Image.new("L", image.size)
    for box in boxes:
        band = image.crop(box).convert("F")
        found.paste(band.point(lambda value: value * scale + (0.5 - low * scale)).convert("L"), box)
    return found
