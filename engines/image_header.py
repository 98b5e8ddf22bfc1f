"""What the first bytes of a picture say, read without decoding a pixel; the door (`router.media`) judges by it.

In: an encoded file, possibly cut off. Out: its type by magic bytes, its size, and whether it is animated. Own readers
rather than Pillow's: opening a GIF or WebP there allocates the whole canvas before anybody could refuse it.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

from engines.image_layout import (
    JPEG_END,
    JPEG_FRAMES,
    JPEG_SCAN,
    TooManyBlocksError,
    count_jpeg_scans,
    max_blocks,
    read_jpeg_segments,
)

ACCEPTED_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")

# Pillow decodes run-length encoded bitmaps in Python: 1 s for a million runs, and for ten million filled pixels.
_MAX_RUNS_BYTES = 4_000_000
_MAX_RUNS_PIXELS = 16_000_000

# A frame's pixels, in pieces of at most 255 bytes: a GIF of 20 MB has 80,000. Skipping one takes 0.3 us.
_MAX_SUB_BLOCKS = 200_000

# From this ratio of the sides on, rounding the shorter one down would change the ratio by more than a hundredth.
_NARROW_RATIO = 20
_MAX_STRAYS = 10_000

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What decides whether a picture is decoded.

    Attributes:
        media_type: one of `ACCEPTED_TYPES`.
        width_px: before any rotation.
        height_px: likewise.
        is_animated: there is more than one frame.
        num_scans: how often a JPEG's pixels are gone over.
        is_run_length: it is a BMP that is compressed by runs.
    """

    media_type: str
    width_px: int
    height_px: int
    is_animated: bool = False
    num_scans: int = 1
    is_run_length: bool = False

    @property
    def num_pixels(self) -> int:
        """Width times height."""
        return self.width_px * self.height_px

    def is_slow_bitmap(self, num_bytes: int) -> bool:
        """Whether it is a BMP of so many runs or pixels that filling them in would take seconds."""
        return self.is_run_length and (num_bytes > _MAX_RUNS_BYTES or self.num_pixels > _MAX_RUNS_PIXELS)


class _Steps:
    """A budget for walking through one file's blocks.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self) -> None:
        if not self._left:
            raise TooManyBlocksError(self._most)
        self._left -= 1


def sniff_media_type(data: bytes) -> str:
    """The type by magic bytes: one of `ACCEPTED_TYPES`, another one worth naming, or an empty string."""
    head = data[:512]
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    # Two letters are weak evidence: the length of the info header, 12 to 124, must follow.
    if head.startswith(b"BM") and len(head) >= 18 and 12 <= int.from_bytes(head[14:18], "little") <= 124:
        return "image/bmp"
    return _sniff_refused_type(head)


def read_header(data: bytes) -> ImageHeader:
    """Read type and size; the file may end anywhere after them.

    Raises:
        TooManyBlocksError: if reading the file would take too long.
        ValueError: if the type is not one of `ACCEPTED_TYPES`, or the header is broken or cut off.
    """
    media_type = sniff_media_type(data)
    reader = _READERS.get(media_type)
    if reader is None:
        raise ValueError(f"not an accepted picture type: {media_type or 'unknown'}")
    try:
        return reader(data)
    except (struct.error, IndexError):
        raise ValueError(f"{media_type} header is cut off") from None


def _sniff_refused_type(head: bytes) -> str:
    """Formats that are not taken but recognised, so that the refusal can name them."""
    if head.startswith((b"II*\x00", b"MM\x00*")):
        return "image/tiff"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return "image/avif"
        return "image/heic" if brand in _HEIC_BRANDS else "video/mp4"
    if head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return "image/jxl"
    if head.startswith((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "image/jp2"
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return "image/svg+xml"
    if text.startswith((b"<!doctype html", b"<html")):
        return "text/html"
    return ""


def _read_png(data: bytes) -> ImageHeader:
    """Walk the chunks up to the pixel data: an animation announces itself there (acTL). Source: PNG 3rd edition."""
    length, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or length != 13:
        raise ValueError("a PNG starts with a 13-byte IHDR chunk")
    is_animated = False
    position = 8 + 12 + length
    steps = _Steps(max_blocks(data))
    while position + 8 <= len(data):
        steps.take()
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"IDAT":
            break
        if name == b"IHDR":
            raise ValueError("a PNG has one IHDR chunk")  # decoders disagree on which of two counts
        if name == b"acTL" and length == 8 and position + 20 <= len(data):
            num_frames, _, checksum = struct.unpack_from(">III", data, position + 8)
            # Damaged ancillary chunks count as absent.
            is_whole = zlib.crc32(data[position + 4 : position + 16]) == checksum
            is_animated = is_animated or (is_whole and num_frames > 1)
        position += 12 + length
    return ImageHeader("image/png", width, height, is_animated)


def _read_jpeg(data: bytes) -> ImageHeader:
    """Read the frame header before the first scan, which has the size, and count the scans behind it."""
    size: tuple[int, int] | None = None
    for segment in read_jpeg_segments(data):
        if segment.marker in (JPEG_SCAN, JPEG_END):
            break
        if segment.marker in JPEG_FRAMES:
            if size is not None:
                raise ValueError("a JPEG has one frame header")
            height, width = struct.unpack_from(">HH", data, segment.start + 1)
            size = width, height
    if size is None:
        raise ValueError("a JPEG has a frame header before its first scan")
    return ImageHeader("image/jpeg", *size, num_scans=count_jpeg_scans(data))


def _read_gif(data: bytes) -> ImageHeader:
    """Walk the blocks up to a second frame; a frame may reach beyond the screen. Source: GIF89a specification."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _colour_table_bytes(flags)
    num_frames = num_strays = 0
    blocks, sub_blocks = _Steps(max_blocks(data)), _Steps(_MAX_SUB_BLOCKS)
    while position < len(data) and num_frames < 2:
        block = data[position]
        position += 1
        if block == 0x3B:  # trailer
            break
        if block == 0x21:  # extension: one label byte, then sub-blocks
            blocks.take()
            position = _skip_sub_blocks(data, position + 1, sub_blocks)
        elif block == 0x2C:  # a frame: place and size, its own colours, one byte of code size, then sub-blocks
            num_frames += 1
            if position + 9 > len(data):
                break
            left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, position)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            position = _skip_sub_blocks(data, position + 9 + _colour_table_bytes(flags) + 1, sub_blocks)
        else:  # decoders pass over bytes that are no block; many are no GIF
            num_strays += 1
            if num_strays > _MAX_STRAYS:
                raise ValueError("a GIF consists of extensions and frames")
    return ImageHeader("image/gif", width, height, num_frames > 1)


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_sub_blocks(data: bytes, position: int, steps: _Steps) -> int:
    while position < len(data) and data[position]:
        steps.take()
        position += 1 + data[position]
    return position + 1


def _read_webp(data: bytes) -> ImageHeader:
    """Read the first chunk, which is one of three kinds. Source: RFC 9649, sections 2.5 to 2.7."""
    kind = data[12:16]
    if kind == b"VP8X":
        flags = data[20]
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        if len(data) < 30:
            raise ValueError("WebP header is cut off")
        return ImageHeader("image/webp", width, height, bool(flags & 0x02))
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("image/webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("image/webp", width & 0x3FFF, height & 0x3FFF)
    raise ValueError("a WebP starts with a VP8, VP8L or VP8X chunk")


def _read_bmp(data: bytes) -> ImageHeader:
    """Read the info header; a negative height means that rows run from the top."""
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<Ii", data, 18)
    is_run_length = header_bytes >= 40 and struct.unpack_from("<I", data, 30)[0] in (1, 2)
    return ImageHeader("image/bmp", width, abs(height), is_run_length=is_run_length)


_READERS = {
    "image/png": _read_png,
    "image/jpeg": _read_jpeg,
    "image/gif": _read_gif,
    "image/webp": _read_webp,
    "image/bmp": _read_bmp,
}


def fit_size(width: int, height: int, max_side_px: int | None) -> tuple[int, int]:
    """Scale a size down, aspect kept, until the longer side is at most ``max_side_px``."""
    side = max(width, height)
    if max_side_px is None or side <= max_side_px:
        return width, height
    # Of a narrow picture, a shorter side that is rounded down would make it longer in proportion than what was sent.
    rounded = math.ceil if side > _NARROW_RATIO * min(width, height) else round
    return max(1, rounded(width * max_side_px / side)), max(1, rounded(height * max_side_px / side))
