"""`router.media`: every form a picture may arrive in, and a refusal for everything that is no picture we take."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from PIL import Image

from engines.base import ImagePart
from policies.text import Text
from router import media
from router.errors import ImageError, ImageFetchError, RouterError
from router.fetch import FetchedBody, FetchError, FetchFailedError, FetchTooLargeError, UrlRefusedError
from router.media import FETCH_CONCURRENCY, MAX_SIDE_PX, MediaIntake
from router.settings import Settings

LIMIT = 400_000
MAX_PIXELS = 1_000_000


def encoded(fmt: str, size: tuple[int, int] = (20, 10), mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 1).save(buffer, fmt, **options)
    return buffer.getvalue()


def animated(fmt: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, fmt, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def png_of_size(width: int, height: int, after_header: bytes = b"") -> bytes:
    """A PNG that ends after its header: enough for the door, too little for a decoder."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + after_header


PNG = (
    encoded("PNG") + b"\xfb\xef\xff\xff"
)  # bytes after the end, so that its base64 has both special letters and padding
JPEG = encoded("JPEG")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def as_url(data: bytes, declared: str = "image/png") -> str:
    return f"data:{declared};base64,{b64(data)}"


class FakeFetcher:
    """Serves bodies by URL; a `FetchError` is raised instead."""

    def __init__(self, bodies: dict[str, bytes | FetchError] | None = None, content_type: str = "") -> None:
        self.bodies = bodies or {}
        self.content_type = content_type

    async def get(self, url: str) -> FetchedBody:
        body = self.bodies[url]
        if isinstance(body, FetchError):
            raise body
        return FetchedBody(body, self.content_type)


def intake(fetcher: media.Fetcher | None = None, **changes: object) -> MediaIntake:
    values: dict[str, object] = {"max_image_bytes": LIMIT, "max_image_pixels": MAX_PIXELS, "max_images": 4} | changes
    return MediaIntake(Settings(**values), fetcher or FakeFetcher())  # type: ignore[arg-type]


async def refused(source: str, fetcher: media.Fetcher | None = None) -> RouterError:
    with pytest.raises(RouterError) as refusal:
        await intake(fetcher).load(source, param="messages[0].content[1].image_url")
    error = refusal.value
    # Then every refusal, whatever it is for, is a 400 with the field and both languages
    assert error.status_code == 400
    assert error.param == "messages[0].content[1].image_url"
    assert error.message.isascii()
    assert not error.message_zh.isascii()
    return error


@pytest.mark.parametrize(
    ("fmt", "media_type", "modes"),
    [
        ("PNG", "image/png", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
        ("JPEG", "image/jpeg", ["L", "RGB", "CMYK"]),
        ("GIF", "image/gif", ["P", "L"]),
        ("BMP", "image/bmp", ["1", "L", "RGB", "RGBA"]),
        ("WEBP", "image/webp", ["RGB", "RGBA"]),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (17, 300), (300, 17)], ids=str)
async def test_every_accepted_type_passes_with_its_bytes_untouched(
    fmt: str, media_type: str, modes: list[str], size: tuple[int, int]
) -> None:
    for mode in modes:
        data = encoded(fmt, size, mode)
        part = await intake().load(as_url(data, media_type), param="image")
        assert part == ImagePart(data, media_type, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG", progressive=True),
        JPEG[:2] + b"\xff\xff\xff" + JPEG[2:],
        encoded("JPEG", icc_profile=b"x" * 200_000),
        encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
        encoded("JPEG", exif=b"Exif\0\0broken"),
        encoded("WEBP", lossless=True),
        encoded("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
        animated("MPO"),
        encoded("GIF", save_all=True),
        png_of_size(5, 5, struct.pack(">I4sIII", 8, b"acTL", 3, 0, 0xBAD)),
    ],
    ids=[
        "progressive jpeg",
        "jpeg with fill bytes",
        "jpeg with profile",
        "jpeg with exif",
        "jpeg with broken exif",
        "lossless webp",
        "extended webp",
        "jpeg of two views",
        "gif with one frame",
        "png that is animated by a damaged chunk only",
    ],
)
async def test_unusual_but_valid_files_pass(data: bytes) -> None:
    assert (await intake().load(b64(data), param="image")).data == data


@pytest.mark.parametrize(
    "source",
    [
        b64(PNG),
        b64(PNG).rstrip("="),
        b64(PNG) + "==",
        base64.urlsafe_b64encode(PNG).decode(),
        base64.encodebytes(PNG).decode(),
        base64.encodebytes(PNG).decode().replace("\n", "\r\n"),
        " \n" + b64(PNG),
        as_url(PNG),
        as_url(PNG, "IMAGE/PNG"),
        as_url(PNG, "image/x-png"),
        as_url(PNG, "image/png;charset=utf-8"),
        as_url(PNG, "image/png;name=cat.png"),
        as_url(PNG, "image/png; name=cat.png ; charset=utf-8"),
        f"data:image/png;base64;name=cat.png,{b64(PNG)}",
        f"data:image/png; BASE64 ,\n{b64(PNG)}",
        as_url(PNG).replace("/", "_").replace("+", "-").replace("image_png", "image/png").rstrip("="),
        "data:image/png;base64," + "".join(f"%{byte:02x}" for byte in b64(PNG).encode()),
        "data:image/png;base64," + "%0D%0A".join(b64(PNG)),
        as_url(PNG, ""),
        as_url(PNG, "application/octet-stream"),
        as_url(PNG, "image/*"),
        "DATA:image/png;BASE64," + b64(PNG),
        "data:base64," + b64(PNG),
        as_url(PNG).replace("+", "%2B").replace("/", "%2F").replace("=", "%3D").replace("image%2Fpng", "image/png"),
        " " + as_url(PNG) + "\n",
    ],
)
async def test_base64_is_read_in_every_common_spelling(source: str) -> None:
    # Given a picture whose base64 needs padding and both special letters
    assert b64(PNG).endswith("=")
    assert {"+", "/"} <= set(b64(PNG))
    assert (await intake().load(source, param="image")).data == PNG


@pytest.mark.parametrize(
    "label",
    [
        "image/jpg",
        "image/jfif",
        "image/png",
        "image/heic",
        "undefined",
        "null",
        "application/pdf",
        "text/plain",
        "图片",
    ],
)
async def test_the_bytes_decide_what_a_picture_is_not_its_label(label: str) -> None:
    assert (await intake().load(as_url(JPEG, label), param="image")).media_type == "image/jpeg"


TIFF = encoded("TIFF")
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
HEIC = b"\0\0\0\x18ftypheic" + bytes(20)
AVIF = b"\0\0\0\x18ftypavif" + bytes(20)
TWO_IHDR = png_of_size(1, 1) + png_of_size(60_000, 60_000)[8:]
SOF = b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 10, 20) + b"\x01\x01\x11\x00"


@dataclass
class Bad:
    source: str
    code: str
    says: str  # a piece of the message


BAD: dict[str, Bad] = {
    "nothing": Bad("", "empty_image_file", "empty"),
    "only spaces": Bad("  \n", "empty_image_file", "empty"),
    "empty data url": Bad("data:image/png;base64,", "empty_image_file", "empty"),
    "words": Bad("a picture of a cat", "invalid_image", "PNG, JPEG"),
    "a path": Bad("/home/me/cat.png", "invalid_base64_image", "data URL"),
    "letters outside the alphabet": Bad("iVBORw0KGgo!!!!", "invalid_base64_image", "data URL"),
    "letters beyond ASCII": Bad("图片", "invalid_base64_image", "data URL"),
    "a lone surrogate": Bad("\ud800", "invalid_base64_image", "data URL"),
    "impossible length": Bad("iVBOR", "invalid_base64_image", "data URL"),
    "padding in the middle": Bad("iV==BORw0KGg", "invalid_base64_image", "data URL"),
    "data url without a comma": Bad("data:image/png;base64", "invalid_base64_image", "data:image/png;base64,"),
    "data url in plain text": Bad("data:image/png,abc", "invalid_base64_image", "data:image/png;base64,"),
    "data url in hex": Bad("data:image/png;hex,abcd", "invalid_base64_image", "data:image/png;base64,"),
    "file url": Bad("file:///etc/passwd", "invalid_image_url", "file:"),
    "ftp url": Bad("ftp://example.com/a.png", "invalid_image_url", "ftp:"),
    "windows path": Bad("C:\\cat.png", "invalid_image_url", "c:"),
    "text": Bad(b64(b"hello, this is text and no picture"), "invalid_image", "PNG, JPEG"),
    "zeros": Bad(b64(bytes(1000)), "invalid_image", "PNG, JPEG"),
    "two letters like a bitmap": Bad(b64(b"BMW is a car maker, not a picture"), "invalid_image", "PNG, JPEG"),
    "tiff": Bad(as_url(TIFF, "image/tiff"), "unsupported_image_media_type", "image/tiff"),
    "svg": Bad(as_url(SVG, "image/svg+xml"), "unsupported_image_media_type", "image/svg+xml"),
    "heic": Bad(b64(HEIC), "unsupported_image_media_type", "image/heic"),
    "avif": Bad(b64(AVIF), "unsupported_image_media_type", "image/avif"),
    "pdf": Bad(b64(b"%PDF-1.7\n"), "unsupported_image_media_type", "application/pdf"),
    "html": Bad(b64(b"<!DOCTYPE html><html>"), "unsupported_image_media_type", "text/html"),
    "animated gif": Bad(b64(animated("GIF")), "unsupported_image_media_type", "animated"),
    "animated png": Bad(b64(animated("PNG")), "unsupported_image_media_type", "animated"),
    "animated webp": Bad(b64(animated("WEBP")), "unsupported_image_media_type", "animated"),
    "no width": Bad(b64(png_of_size(0, 5)), "image_too_small", "0 x 5"),
    "no height": Bad(b64(png_of_size(5, 0)), "image_too_small", "5 x 0"),
    "one pixel row too many": Bad(b64(png_of_size(1000, 1001)), "image_too_large", "1000 x 1001"),
    "one side too long": Bad(b64(png_of_size(MAX_SIDE_PX + 1, 1)), "image_too_large", "16385 x 1"),
    "png bomb": Bad(b64(png_of_size(2**31 - 1, 2**31 - 1)), "image_too_large", "2147483647"),
    "gif bomb": Bad(b64(b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)), "image_too_large", "65535"),
    "gif frame beyond its screen": Bad(
        b64(b"GIF89a\x01\0\x01\0\0\0\0," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0)), "image_too_large", "60000"
    ),
    "bmp bomb upside down": Bad(
        b64(b"BM" + bytes(12) + struct.pack("<Iii", 40, 50000, -50000) + bytes(30)), "image_too_large", "50000 x 50000"
    ),
    "webp bomb": Bad(b64(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6), "image_too_large", "16777216"),
    "png that is only a signature": Bad(b64(PNG[:8]), "image_parse_error", "cut off"),
    "png cut in its header": Bad(b64(PNG[:20]), "image_parse_error", "cut off"),
    "png with two headers": Bad(b64(TWO_IHDR), "image_parse_error", "broken"),
    "png that starts otherwise": Bad(b64(PNG[:8] + b"\0\0\0\x0dIDAT" + bytes(20)), "image_parse_error", "broken"),
    "jpeg that is only a signature": Bad(b64(JPEG[:3]), "image_parse_error", "cut off"),
    "jpeg cut before its size": Bad(b64(JPEG[:100]), "image_parse_error", "cut off"),
    "jpeg without a frame": Bad(b64(b"\xff\xd8\xff\xda\0\x08" + bytes(20)), "image_parse_error", "broken"),
    "jpeg with two frames": Bad(b64(b"\xff\xd8" + SOF + SOF + b"\xff\xda"), "image_parse_error", "broken"),
    "jpeg of thousands of scans": Bad(
        b64(JPEG[:-2] + (b"\xff\xda\0\x08" + bytes(6)) * 5000 + JPEG[-2:]), "image_too_large", "5001 scans"
    ),
    "jpeg of comments": Bad(b64(JPEG[:2] + b"\xff\xfe\0\2" * 15_000 + JPEG[2:]), "image_too_large", "too many to read"),
    "png of empty chunks": Bad(b64(PNG[:33] + b"\0\0\0\0tIMECRC4" * 15_000), "image_too_large", "too many to read"),
    "gif of comments": Bad(
        b64(b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\0" * 15_000), "image_too_large", "too many to read"
    ),
    "jpeg of padding": Bad(b64(b"\xff\xd8" + b"\xff" * 250_000), "image_parse_error", "broken"),
    "gif cut in its screen": Bad(b64(b"GIF89a\x01"), "image_parse_error", "cut off"),
    "gif of nothing": Bad(b64(b"GIF89a\x01\0\x01\0" + bytes(250_000)), "image_parse_error", "broken"),
    "webp cut in its header": Bad(b64(encoded("WEBP")[:18]), "image_parse_error", "cut off"),
    "webp cut in its extended header": Bad(
        b64(b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\1"), "image_parse_error", "cut off"
    ),
    "webp of an unknown kind": Bad(b64(b"RIFF\0\0\0\0WEBPABCD" + bytes(20)), "image_parse_error", "broken"),
    "bmp cut in its header": Bad(b64(encoded("BMP")[:20]), "image_parse_error", "cut off"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_bad_input_is_refused_with_a_code_and_a_reason(bad: Bad) -> None:
    error = await refused(bad.source)
    assert isinstance(error, ImageError)
    assert error.code == bad.code
    assert bad.says in error.message


async def test_a_picture_at_the_pixel_limits_passes() -> None:
    assert await intake().load(b64(png_of_size(1000, 1000)), param="image")
    assert await intake().load(b64(png_of_size(MAX_SIDE_PX, 61)), param="image")


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
async def test_a_file_cut_off_after_its_header_is_left_to_the_engine(fmt: str) -> None:
    data = encoded(fmt, (200, 200))
    header_bytes = data.index(b"\xff\xda") if fmt == "JPEG" else 60
    assert (await intake().load(b64(data[:header_bytes]), param="image")).data == data[:header_bytes]


def spaced(data: bytes) -> str:
    return "\n".join(b64(data))


@pytest.mark.parametrize("spell", [b64, as_url, spaced], ids=["base64", "data url", "spaced"])
async def test_bytes_are_bounded_exactly(spell: Callable[[bytes], str]) -> None:
    # Given pictures of the largest size, and of one byte more
    largest = PNG + bytes(LIMIT - len(PNG))
    # Then the first passes and the second does not
    assert (await intake().load(spell(largest), param="image")).data == largest
    assert (await refused(spell(largest + b"\0"))).code == "image_file_too_large"


@pytest.mark.parametrize("num_chars", [1, 2, 3, 4, 5, 7])
async def test_base64_in_any_spelling_is_decoded_in_pieces_that_may_end_anywhere(
    monkeypatch: pytest.MonkeyPatch, num_chars: int
) -> None:
    # Given pieces so short that every escape, line break and padding meets the end of one
    monkeypatch.setattr(media, "_PIECE_CHARS", num_chars)
    text = b64(PNG).replace("+", "-").replace("/", "_")
    escaped = "".join(f"%{byte:02X}" if place % 3 else chr(byte) for place, byte in enumerate(text.encode()))
    for spelled in (
        escaped,
        escaped.replace("%", "\n%"),
        escaped.replace("%4", "%\r\n4"),
        "%0D%0A".join(text),
        escaped + "===",
        text.rstrip("=") + "%3D",
    ):
        assert (await intake().load("data:image/png;base64," + spelled, param="image")).data == PNG
    # Then half an escape, or one of something else, is still refused
    for spelled in (escaped + "%", escaped + "%4", escaped + "%zz", text + "%C3%A4"):
        assert (await refused("data:image/png;base64," + spelled)).code == "invalid_base64_image"


@pytest.mark.parametrize(
    "spell",
    [
        lambda: "AAAAAA%41" * (3 * LIMIT),
        lambda: "A" * (24 * LIMIT),
        lambda: "A\n" * (12 * LIMIT),
        lambda: " " * (12 * LIMIT) + "AAA%41" * (2 * LIMIT),
        lambda: "=" * (24 * LIMIT),
    ],
    ids=["escapes", "letters", "line breaks", "spaces first", "padding"],
)
async def test_base64_of_many_times_the_limit_is_refused_without_a_copy_of_it(spell: Callable[[], str]) -> None:
    # Given base64 of many times the largest picture, not in its canonical form
    source = " data:image/png;base64," + spell()
    # When it is refused
    tracemalloc.start()
    try:
        error = await refused(source)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Then it took what the largest picture takes, and no copy of the text
    assert error.code == "image_file_too_large"
    assert most < len(source) / 3


async def test_more_escapes_than_any_client_makes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_MAX_ESCAPES", 3)
    assert (await intake().load("data:image/png;base64," + b64(PNG).replace("=", "%3D"), param="image")).data == PNG
    assert (await refused("data:image/png;base64," + "%41" * 4)).code == "invalid_base64_image"


async def test_base64_over_the_limit_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*args: object, **kwargs: object) -> bytes:
        raise AssertionError("decoded")

    monkeypatch.setattr(media.pybase64, "b64decode", unwanted)
    assert (await refused("A" * (LIMIT * 2))).code == "image_file_too_large"


async def test_big_pictures_are_worked_on_outside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a look at the thread in which a picture is judged
    threads: list[threading.Thread] = []

    def sniff(data: bytes) -> str:
        threads.append(threading.current_thread())
        return "image/png"

    monkeypatch.setattr(media, "sniff_media_type", sniff)
    # When a small and a big picture arrive
    await intake().load(b64(PNG), param="image")
    await intake().load(b64(PNG + bytes(300_000)), param="image")
    # Then only the big one left the loop's thread
    assert [thread is threading.current_thread() for thread in threads] == [True, False]


async def test_a_picture_behind_a_url_is_typed_by_its_bytes_not_by_its_server() -> None:
    fetcher = FakeFetcher({"https://example.com/a": JPEG}, content_type="image/png")
    part = await intake(fetcher).load("https://example.com/a", param="image")
    assert (part.data, part.media_type) == (JPEG, "image/jpeg")


async def test_a_url_that_serves_no_picture_is_refused_with_what_it_served() -> None:
    fetcher = FakeFetcher({"https://example.com/a": b'{"detail": "gone"}'}, content_type="application/json")
    error = await refused("https://example.com/a", fetcher)
    assert error.code == "invalid_image"
    assert "application/json" in error.message
    assert "application/json" in error.message_zh


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (UrlRefusedError(Text("no", "不")), ImageFetchError, "invalid_image_url"),
        (FetchFailedError(Text("no", "不")), ImageFetchError, "failed_to_download_image"),
        (FetchTooLargeError(Text("no", "不")), ImageError, "image_file_too_large"),
    ],
)
async def test_a_failed_fetch_becomes_a_refusal(failure: FetchError, kind: type[RouterError], code: str) -> None:
    error = await refused("HTTPS://example.com/a", FakeFetcher({"HTTPS://example.com/a": failure}))
    assert type(error) is kind
    assert error.code == code


class Gate(FakeFetcher):
    """Counts the fetches under way and lets them go one by one, the last one first."""

    def __init__(self, bodies: dict[str, bytes | FetchError]) -> None:
        super().__init__(bodies)
        self.waiting: list[asyncio.Event] = []
        self.cancelled = 0
        self.most = 0

    async def get(self, url: str) -> FetchedBody:
        event = asyncio.Event()
        self.waiting.append(event)
        self.most = max(self.most, len(self.waiting))
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.waiting.remove(event)
        return await super().get(url)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_many_pictures_keep_their_order_and_only_a_few_load_at_a_time() -> None:
    # Given more slow pictures than may load at a time
    urls = [f"https://example.com/{number}" for number in range(FETCH_CONCURRENCY + 3)]
    bodies: dict[str, bytes | FetchError] = {url: PNG + url.encode() for url in urls}
    gate = Gate(bodies)
    task = asyncio.create_task(intake(gate, max_images=99).load_all([(url, "image") for url in urls]))
    # When they arrive in the reverse order
    await settle()
    while gate.waiting:
        gate.waiting[-1].set()
        await settle()
    # Then the answer has the order of the request
    assert [part.data for part in await task] == list(bodies.values())
    assert gate.most == FETCH_CONCURRENCY


async def test_the_first_refusal_stops_the_other_downloads() -> None:
    # Given a slow picture beside a bad one
    gate = Gate({"https://example.com/a": PNG})
    # When both are loaded, then the refusal is one plain error and the download ended
    with pytest.raises(ImageError) as refusal:
        await intake(gate).load_all([("https://example.com/a", "input[0]"), ("!", "input[1]")])
    assert refusal.value.param == "input[1]"
    assert gate.cancelled == 1


async def test_too_many_pictures_are_refused_before_any_is_loaded() -> None:
    gate = Gate({})
    with pytest.raises(ImageError) as refusal:
        await intake(gate).load_all([("https://example.com/a", f"input[{number}]") for number in range(5)])
    assert (refusal.value.code, refusal.value.param) == ("too_many_images", "input[4]")
    assert gate.most == 0


async def test_the_pixels_of_all_pictures_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given room for two pictures of 20 x 10
    monkeypatch.setattr(media, "MAX_REQUEST_PIXELS", 400)
    sources = [(b64(PNG), f"input[{number}]") for number in range(3)]
    assert len(await intake().load_all(sources[:2])) == 2
    # When a third comes, then it is the one that is refused
    with pytest.raises(ImageError) as refusal:
        await intake().load_all(sources)
    assert (refusal.value.code, refusal.value.param) == ("image_too_large", "input[2]")
    assert not refusal.value.message_zh.isascii()


async def test_a_bitmap_of_too_many_runs_is_refused() -> None:
    head = b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 1000, 1000, 1, 8, 1)
    door = intake(max_image_bytes=5_000_000)
    assert await door.load(b64(head + bytes(3_900_000)), param="image")
    with pytest.raises(ImageError, match="run-length") as refusal:
        await door.load(b64(head + bytes(4_000_000)), param="image")
    assert refusal.value.code == "image_too_large"


async def test_no_pictures_are_no_pictures() -> None:
    assert await intake().load_all([]) == ()
