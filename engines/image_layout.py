"""How an encoded picture is laid out: JPEG's segments and PNG's chunks, read without decoding a pixel.

In: an encoded file, possibly cut off or hostile. Out: what decoding it will cost, whether its end is missing, and the
file without the parts that pixels do not need. Without Pillow and torch, for the router's door and the engines alike.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# Each block of a picture, however small, costs the readers here and Pillow 15 to 35 us of processor in all. Real files
# have a few; those written in small pieces of pixels have more the larger they are.
MAX_SMALL_BLOCKS: Final = 10_000
_BYTES_PER_BLOCK: Final = 1024

# Each scan of a progressive JPEG goes over all of its pixels, however few bytes the scan has: 0.3 ms a megapixel on one
# core. Encoders write 3 to 20 scans; at most 2.5 giga-pixels are gone over, 62 scans at 40 megapixels.
MAX_SCANS: Final = 1000
MAX_SCANNED_PIXELS: Final = 2_500_000_000

JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn; the three left out are tables, reserved
JPEG_SCAN: Final = 0xDA
JPEG_END: Final = 0xD9
_JPEG_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Any marker but those without a length (TEM, RSTn, SOI); 0xFF00 is a data byte, 0xFFFF a fill byte.
_NEXT_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# How long transparency is at least, by colour type: grey, RGB, palette. The others have none.
_PNG_TRANSPARENCY: Final = {0: 2, 2: 6, 3: 1}
# Texts that may say how the picture is to be turned.
_PNG_ORIENTATION: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MAX_DEFLATION: Final = 1032  # bytes that one byte of zlib's can become
_MAX_TEXT_BYTES: Final = 1_000_000  # of such texts, unpacked; Pillow gives up the whole picture above 2**20


class TooManyBlocksError(ValueError):
    """The file consists of so many chunks, segments or extensions that reading them would take seconds."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the picture has too many blocks: more than {most}")
        self.most = most


def max_blocks(data: bytes) -> int:
    """How many chunks, segments or extensions a file of this size may have: one a KB, beside a fixed number."""
    return MAX_SMALL_BLOCKS + len(data) // _BYTES_PER_BLOCK


@dataclass(frozen=True, slots=True)
class JpegSegment:
    """One marker of a JPEG and where its content is, the two bytes of its length left out.

    Attributes:
        marker: second byte of the marker, such as `JPEG_SCAN`.
        start: first byte of the content.
        end: first byte behind it; beyond the file if that is cut off.
    """

    marker: int
    start: int
    end: int


def read_jpeg_segments(data: bytes) -> Iterator[JpegSegment]:
    """Walk a JPEG from its first marker to its end marker, over the entropy-coded data. Source: ITU-T T.81, annex B.

    Raises:
        TooManyBlocksError: if there are more of them than `max_blocks`.
    """
    position = 2
    for _ in range(max_blocks(data)):
        found = _NEXT_MARKER.search(data, position)
        if found is None:
            return
        marker, start = data[found.start() + 1], found.end()
        if marker == JPEG_END:
            yield JpegSegment(marker, start, start)
            return
        position = start + max(int.from_bytes(data[start : start + 2], "big"), 2)
        yield JpegSegment(marker, start + 2, position)
    raise TooManyBlocksError(max_blocks(data))


def count_jpeg_scans(data: bytes) -> int:
    """Count the scans of a JPEG.

    Raises:
        TooManyBlocksError: as `read_jpeg_segments`.
    """
    # Few files have more marker-like bytes than scans are allowed, and counting those takes no time.
    looks_like = data.count(bytes((0xFF, JPEG_SCAN)))
    if looks_like <= 1:
        return looks_like
    return sum(segment.marker == JPEG_SCAN for segment in read_jpeg_segments(data))


def has_too_many_scans(num_scans: int, num_pixels: int) -> bool:
    """Whether going over a JPEG's pixels once per scan is more work than one picture is worth."""
    return num_scans > MAX_SCANS or num_scans * num_pixels > MAX_SCANNED_PIXELS


def lacks_jpeg_end(data: bytes) -> bool:
    """Whether a JPEG has no end marker, and has every scan that its pixels need, as far as the scans' headers tell.

    Of a progressive JPEG each coefficient of each component must have been sent down to its last bit.

    Raises:
        TooManyBlocksError: as `read_jpeg_segments`.
    """
    components: set[int] = set()
    missing: set[tuple[int, int]] = set()  # component, coefficient
    is_progressive = False
    for marker, content in ((each.marker, data[each.start : each.end]) for each in read_jpeg_segments(data)):
        if marker == JPEG_END:
            return False
        if marker in JPEG_FRAMES and len(content) > 5:
            is_progressive = marker in _JPEG_PROGRESSIVE
            components = {content[place] for place in range(6, min(6 + 3 * content[5], len(content)), 3)}
            missing = {(component, index) for component in components for index in range(64 if is_progressive else 1)}
        elif marker == JPEG_SCAN and content and len(content) >= 4 + 2 * content[0]:
            first, last, bits = content[1 + 2 * content[0] : 4 + 2 * content[0]]
            if not is_progressive:
                first, last, bits = 0, 0, 0
            if bits & 15 == 0:
                sent = {content[place] for place in range(1, 1 + 2 * content[0], 2)}
                missing -= {(component, index) for component in sent for index in range(first, last + 1)}
    return bool(components) and not missing


def strip_jpeg(data: bytes) -> bytes:
    """Return a JPEG without the segments that its pixels do not need, or that are too short to say what they are for.

    What stays: JFIF and Adobe segments, which tell how colours are coded; EXIF and XMP, which tell how the picture is
    to be turned.

    Raises:
        TooManyBlocksError: as `read_jpeg_segments`.
    """
    kept: list[bytes] = []
    position = 0
    for segment in read_jpeg_segments(data):
        if segment.marker in (JPEG_SCAN, JPEG_END):
            break
        content = data[segment.start : segment.start + 5]
        length = segment.end - segment.start
        match segment.marker:
            case 0xE0:
                is_kept = content != b"JFIF\0" or length >= 14
            case 0xEE:
                is_kept = content != b"Adobe" or length >= 12
            case marker:
                is_kept = marker == 0xE1 or not (0xE2 <= marker <= 0xEF or marker == 0xFE)
        if not is_kept:
            kept.append(data[position : segment.start - 4])
            position = segment.end
    return b"".join((*kept, data[position:])) if kept else data


def next_jpeg_restart(data: bytes) -> int:
    """Return the second byte of the restart marker that would come next, were the entropy-coded data to go on."""
    last = None
    for number in range(8):
        place = data.rfind(bytes((0xFF, 0xD0 + number)))
        if place >= 0 and (last is None or place > last[0]):
            last = place, number
    return 0xD0 if last is None else 0xD0 + (last[1] + 1) % 8


def strip_png(data: bytes) -> bytes:
    """Return a PNG without the chunks that its pixels do not need: texts, colour profiles, times, further frames.

    Damaged ancillary chunks are left out too, whatever they say, as the PNG specification wants it (13.1, error
    handling). Critical chunks stay as they are, right or wrong; the decoder judges them.

    Args:
        data: a whole PNG file, or what there is of it.

    Returns:
        The file itself if nothing had to go.

    Raises:
        TooManyBlocksError: if there are more chunks than `max_blocks`.
    """
    kept: list[tuple[int, int]] = [(0, len(_PNG_SIGNATURE))]
    text_bytes = _MAX_TEXT_BYTES
    position = len(_PNG_SIGNATURE)
    view = memoryview(data)
    for _ in range(max_blocks(data)):
        if position + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, position)
        end = min(position + 12 + length, len(data))
        is_kept = not name[0] & 0x20  # critical
        if not is_kept and position + 12 + length <= len(data):
            if name in (b"tEXt", b"zTXt", b"iTXt"):
                size, is_kept = _size_of_text(name, data[position + 8 : end - 4], text_bytes)
                # Also of what is left out: thousands of small chunks can each be unpacked to a megabyte.
                text_bytes = max(text_bytes - size, 0)
            elif name == b"tRNS":
                is_kept = length >= _PNG_TRANSPARENCY.get(data[25], length + 1)
            else:
                is_kept = name == b"eXIf"
            is_kept = is_kept and zlib.crc32(view[position + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
        if is_kept and kept[-1][1] == position:
            kept[-1] = kept[-1][0], end
        elif is_kept:
            kept.append((position, end))
        position = end
        if name == b"IEND":
            break
    else:
        raise TooManyBlocksError(max_blocks(data))
    return data if kept == [(0, len(data))] else b"".join(view[start:end] for start, end in kept)


def _size_of_text(name: bytes, content: bytes, max_bytes: int) -> tuple[int, bool]:
    """Return how many bytes a text has, as far as it had to be unpacked, and whether it is one about the orientation.

    One that has more than ``max_bytes``, or is damaged, is none.
    """
    keyword = next((each for each in _PNG_ORIENTATION if content[: len(each)] == each), None)
    if keyword is None:
        return 0, False
    rest = content[len(keyword) :]
    is_packed = name == b"zTXt" or (name == b"iTXt" and rest[:1] == b"\1")
    if is_packed:
        # zTXt has its method next; iTXt a flag, a method, and two strings that end with a zero byte.
        body = rest[1:] if name == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
        try:
            size = len(zlib.decompressobj().decompress(body, max_bytes + 1))
        except zlib.error:  # after how many bytes is not said
            return min(len(body) * _MAX_DEFLATION, max_bytes), False
    else:
        size = len(content)
    return size, 0 < size <= max_bytes
