"""`engines.image_layout`: what JPEG and PNG files are made of, read without decoding."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from engines.image_layout import (
    MAX_SCANNED_PIXELS,
    MAX_SCANS,
    TooManyBlocksError,
    count_jpeg_scans,
    has_too_many_scans,
    lacks_jpeg_end,
    next_jpeg_restart,
    strip_jpeg,
    strip_png,
)


def encoded(fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").resize((67, 45)).save(buffer, fmt, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes, *, is_whole: bool = True) -> bytes:
    checksum = zlib.crc32(name + content) ^ (not is_whole)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def names(png: bytes) -> list[bytes]:
    found, position = [], 8
    while position < len(png):
        (length,) = struct.unpack_from(">I", png, position)
        found.append(png[position + 4 : position + 8])
        position += 12 + length
    return found


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


BASELINE, PROGRESSIVE = encoded("JPEG"), encoded("JPEG", progressive=True)
PNG = encoded("PNG")


def test_scans_are_counted_and_what_only_looks_like_one_is_not() -> None:
    last = PROGRESSIVE.rindex(b"\xff\xda")
    again = PROGRESSIVE[:-2] + PROGRESSIVE[last:-2] * 20 + PROGRESSIVE[-2:]
    thumbnail = segment(0xE1, b"Exif\0\0" + b"\xff\xda" * 50)

    assert count_jpeg_scans(BASELINE) == 1
    assert count_jpeg_scans(BASELINE[:2] + thumbnail + BASELINE[2:]) == 1
    assert count_jpeg_scans(BASELINE + b"\xff\xda\0\x08" * 50) == 1  # behind the end, as a phone's film is
    assert count_jpeg_scans(again) == count_jpeg_scans(PROGRESSIVE) + 20
    assert count_jpeg_scans(again[:-2]) == count_jpeg_scans(again)


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\x00", b"\xff\xd0", b"\x00"])
def test_counting_scans_takes_one_pass_whatever_is_between_them(filler: bytes) -> None:
    # Given megabytes between two scans, of bytes that a search could stumble over again and again
    data = BASELINE[:-2] + filler * 2_000_000 + BASELINE[BASELINE.rindex(b"\xff\xda") :]
    assert count_jpeg_scans(data) == 2


def test_more_scans_are_allowed_of_smaller_pictures() -> None:
    assert not has_too_many_scans(62, 40_000_000)
    assert has_too_many_scans(63, 40_000_000)
    assert not has_too_many_scans(MAX_SCANS, MAX_SCANNED_PIXELS // MAX_SCANS)
    assert has_too_many_scans(MAX_SCANS + 1, 1)


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE, encoded("JPEG", quality=95, subsampling=0)])
def test_a_jpeg_without_its_end_marker_has_all_scans(data: bytes) -> None:
    assert not lacks_jpeg_end(data)
    assert lacks_jpeg_end(data[:-2])


def test_a_progressive_jpeg_without_its_last_scans_lacks_more_than_its_end() -> None:
    starts = [place for place in range(len(PROGRESSIVE)) if PROGRESSIVE.startswith(b"\xff\xda", place)]
    assert len(starts) > 2
    assert not any(lacks_jpeg_end(PROGRESSIVE[:start]) for start in starts)


def test_the_next_restart_marker_follows_the_last_one() -> None:
    assert next_jpeg_restart(BASELINE[:-2]) == 0xD0
    assert next_jpeg_restart(b"..\xff\xd6..\xff\xd7..") == 0xD0
    assert next_jpeg_restart(b"..\xff\xd7..\xff\xd0..") == 0xD1


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)),
        segment(0xED, b"Photoshop 3.0\0" + bytes(50)),
        segment(0xEE, b"Adobe\0"),
        segment(0xFE, b"a comment"),
    ],
)
def test_segments_that_pixels_do_not_need_are_left_out(extra: bytes) -> None:
    assert strip_jpeg(BASELINE[:2] + extra + BASELINE[2:]) == BASELINE


def test_segments_that_pixels_need_stay_and_a_file_without_others_is_not_copied() -> None:
    cmyk = io.BytesIO()
    Image.new("CMYK", (9, 9), (10, 20, 30, 40)).save(cmyk, "JPEG")  # coded as its Adobe segment says
    exif = encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    for data in (BASELINE, PROGRESSIVE, cmyk.getvalue(), exif):
        assert strip_jpeg(data) is data


ORIENTATION = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b'tiff:Orientation="6"')


@pytest.mark.parametrize("place", [33, len(PNG) - 12], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iTXt", ORIENTATION[:22] + zlib.compress(bytes(3_000_000))),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"tEXt", b"note\0text", is_whole=False),
        chunk(b"eXIf", b"MM\0*", is_whole=False),
        chunk(b"tRNS", bytes(6), is_whole=False),
        chunk(b"tRNS", bytes(5)),
        chunk(b"pHYs", b"", is_whole=False),
        chunk(b"caBX", bytes(1000)),
        chunk(b"fdAT", bytes(1000)),
    ],
)
def test_chunks_that_pixels_do_not_need_or_that_are_damaged_are_left_out(extra: bytes, place: int) -> None:
    assert strip_png(PNG[:place] + extra + PNG[place:]) == PNG


@pytest.mark.parametrize(
    "extra", [chunk(b"tRNS", bytes(6)), chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0"), chunk(b"iTXt", ORIENTATION)]
)
def test_chunks_that_change_what_is_seen_stay(extra: bytes) -> None:
    data = PNG[:33] + extra + PNG[33:]
    assert strip_png(data) is data


def test_what_lies_behind_a_png_is_left_out_and_a_cut_one_stays_cut() -> None:
    assert strip_png(PNG + bytes(100)) == PNG
    for end in (8, 20, 60, len(PNG) - 13, len(PNG) - 12, len(PNG) - 3):
        assert strip_png(PNG[:end]) == PNG[:end]


def test_texts_about_the_orientation_are_bounded_together() -> None:
    # Given many texts that are kept, each well under the bound
    text = chunk(b"tEXt", b"Raw profile type exif\0" + bytes(300_000))
    stripped = strip_png(PNG[:33] + text * 9 + PNG[33:])
    assert names(stripped).count(b"tEXt") == 3
    assert pixels(stripped) == pixels(PNG)


@pytest.mark.parametrize("end", [b"", b"damaged"])
def test_texts_that_are_left_out_are_not_unpacked_without_end(monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    # Given many small chunks, each of which would be unpacked to a megabyte before it is found too large or damaged
    packed = zlib.compress(bytes(3_000_000))
    text = chunk(b"zTXt", b"Raw profile type exif\0\0" + (packed[:1000] + end * 20 if end else packed))
    unpacked: list[int] = []

    class Counted:
        def __init__(self) -> None:
            self._real = real()

        def decompress(self, data: bytes, limit: int) -> bytes:
            unpacked.append(limit)
            return self._real.decompress(data, limit)

    real = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Counted)

    stripped = strip_png(PNG[:33] + text * 200 + PNG[33:])

    assert b"zTXt" not in names(stripped)
    assert len(unpacked) == 200
    assert sum(unpacked) < 2_100_000


@pytest.mark.parametrize(
    ("strip", "data", "piece", "rest"),
    [
        (strip_png, PNG[:33], chunk(b"tIME", b""), PNG[33:]),
        (strip_jpeg, BASELINE[:2], segment(0xFE, b""), BASELINE[2:]),
    ],
)
def test_a_file_of_nothing_but_tiny_blocks_is_given_up(
    strip: Callable[[bytes], bytes], data: bytes, piece: bytes, rest: bytes
) -> None:
    assert pixels(strip(data + piece * 9_000 + rest)) == pixels(data + rest)
    with pytest.raises(TooManyBlocksError, match="too many"):
        strip(data + piece * 11_000 + rest)


def test_a_file_may_have_more_blocks_the_larger_it_is() -> None:
    # Given 20 MB of pixels in pieces of 1 KB, as some encoders write them
    large = PNG[:33] + chunk(b"IDAT", bytes(1024)) * 20_000
    assert strip_png(large) == large
