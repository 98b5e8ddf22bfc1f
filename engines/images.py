"""From encoded picture bytes to upright 8-bit RGB pixels: the one full decode, done in a pool beside the model thread.

In: an `ImagePart` as it came through the door. Out: a Pillow image, or an `InvalidImageError` that says what is wrong.
Shared by both local engines; needs Pillow only.
"""

from __future__ import annotations

import io
import logging
from typing import cast

from PIL import Image, ImageOps

from engines.base import ImagePart, InvalidImageError

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Multi-picture JPEGs of phones ("MPO") carry a preview or a depth map behind the picture; they are no animation.
_ONE_FRAME_IS_ENOUGH = frozenset({"JPEG", "MPO"})
MAX_PIXELS = 80_000_000  # the door bounds pixels first; this guards engines that are called without it
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
PARSE_ERROR = "image_parse_error"
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
_PNG_ORIENTATION = (b"eXIf", b"exif", b"tiff:Orientation")

log = logging.getLogger(__name__)


def decode_image(part: ImagePart, *, max_side_px: int | None = None) -> Image.Image:
    """Decode a picture fully, turn it upright and make it plain RGB.

    EXIF rotation is applied, transparency is laid on white, palettes, CMYK, grey and 16-bit samples become 8-bit RGB.

    Args:
        part: the encoded picture.
        max_side_px: longer pictures are scaled down to this side; None keeps the size.

    Returns:
        An image of mode ``RGB`` that holds no reference to the encoded bytes.

    Raises:
        InvalidImageError: code ``image_parse_error`` if the bytes are no complete picture, ``image_too_large`` over
            `MAX_PIXELS`, ``invalid_image`` if it is animated or of a mode that has no RGB meaning.
    """
    image = _open(part)
    try:
        image.load()
    except Exception as error:  # decoders fed hostile bytes raise nearly anything: OSError, struct.error, SyntaxError
        raise _unreadable(part, error) from error
    image = _to_rgb(_upright(image))
    target = fit_size(*image.size, max_side_px)
    return image if target == image.size else image.resize(target, Image.Resampling.BICUBIC)


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
    if image.format == "TIFF" or (image.format == "PNG" and not any(name in part.data for name in _PNG_ORIENTATION)):
        return width, height
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception as error:  # as in `_upright`
        log.debug("EXIF orientation is unreadable: %r", error)
        return width, height
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def fit_size(width: int, height: int, max_side_px: int | None) -> tuple[int, int]:
    """Scale a size down, aspect kept, until the longer side is at most ``max_side_px``."""
    side = max(width, height)
    if max_side_px is None or side <= max_side_px:
        return width, height
    return max(1, round(width * max_side_px / side)), max(1, round(height * max_side_px / side))


def _unreadable(part: ImagePart, error: Exception) -> InvalidImageError:
    log.debug("picture %s does not decode: %r", part.sha256[:12], error)
    return InvalidImageError(
        "The picture cannot be decoded: it is truncated or damaged, or not an image. Send a complete PNG, JPEG, WebP, "
        "GIF, BMP or TIFF file.",
        code=PARSE_ERROR,
    )


def _open(part: ImagePart) -> Image.Image:
    """Read the header only, and refuse what should not be decoded at all."""
    try:
        image = Image.open(io.BytesIO(part.data), formats=_FORMATS)
        is_animated = image.format not in _ONE_FRAME_IS_ENOUGH and getattr(image, "is_animated", False)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except Exception as error:  # as in `decode_image`
        raise _unreadable(part, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large()
    if is_animated:
        raise InvalidImageError("Animated and multi-page pictures are not supported: send a single frame.")
    return image


def _too_large() -> InvalidImageError:
    return InvalidImageError(f"The picture has more than {MAX_PIXELS:,} pixels.", code="image_too_large")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block means no rotation, since the pixels are fine."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # the EXIF parser, too, raises nearly anything
        log.debug("EXIF orientation is unreadable: %r", error)
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
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
        raise InvalidImageError(f"Pictures of colour mode {image.mode} are not supported: send RGB.") from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit samples by their full range, so that equal files look equally bright; others by their content."""
    wide = image.convert("F")
    low, high = cast("tuple[float, float]", wide.getextrema())
    if low >= 0 and high <= 65535 and image.mode != "F":
        low, high = 0.0, 65535.0
    scale = 255.0 / max(high - low, 1e-9)
    return wide.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
