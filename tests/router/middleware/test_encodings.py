"""Packed bodies are unpacked, and bombs, breaks and unknown encodings are refused."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from router.errors import BodyTooLargeError
from router.middleware.encodings import Unpacked
from router.settings import Settings
from tests.router.middleware.conftest import MakeApp, client_of

HELLO = orjson.dumps({"model": "glowl", "messages": [{"role": "user", "content": "你好" * 1000}]})
Pack = Callable[[bytes], bytes]


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[:100]) + gzip.compress(data[100:]) + b"\0" * 10


def zstd(data: bytes) -> bytes:
    module = pytest.importorskip("backports.zstd")
    return bytes(module.compress(data[:100]) + module.compress(data[100:]))


PACKED: list[tuple[str, Pack]] = [
    ("gzip", gzip.compress),
    ("GZip", two_members),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare_deflate),
    ("zstd", zstd),
    ("identity", bytes),
    ("identity, gzip", gzip.compress),
    ("", bytes),
]


async def send(app: Any, encoding: str, body: bytes, size: int = 1 << 20, path: str = "/v1/route") -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    async with client_of(app) as http:
        return await http.post(path, content=pieces(), headers={"content-encoding": encoding})


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
async def test_what_clients_pack_is_read_wherever_it_is_cut(make_app: MakeApp, encoding: str, pack: Pack) -> None:
    app = make_app()
    for size in (1 << 20, 1):
        answer = await send(app, encoding, pack(HELLO), size)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, gzip", "gzip, br", "exi"])
async def test_other_encodings_are_a_415_that_names_what_is_accepted(make_app: MakeApp, encoding: str) -> None:
    answer = await send(make_app(), encoding, HELLO)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert "zstd" in answer.headers["accept-encoding"]
    assert "zstd" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("encoding", "pack"), [case for case in PACKED if case[0] in ("gzip", "deflate", "zstd")])
async def test_bombs_are_a_413_and_broken_bodies_a_400(make_app: MakeApp, encoding: str, pack: Pack) -> None:
    app = make_app(max_body_bytes=2_000_000)
    bomb = await send(app, encoding, pack(b" " * 50_000_000))
    assert (bomb.status_code, bomb.json()["error"]["code"]) == (413, "request_too_large")
    for body in (pack(HELLO)[:-5], b"no such thing at all", pack(HELLO)[:50] + b"\xff" * 20):
        answer = await send(app, encoding, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_encoding")


async def test_a_bomb_of_one_piece_lets_others_have_their_turn_and_comes_in_small_pieces() -> None:
    turns, sizes = 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]

    sent = [{"type": "http.request", "body": gzip.compress(b" " * 20_000_000), "more_body": False}]

    async def receive() -> Any:
        return sent.pop()

    task = asyncio.ensure_future(others())
    scope = {"type": "http", "path": "/v1/route", "headers": [(b"content-encoding", b"gzip")]}
    await Unpacked(app, Settings())(scope, receive, receive)
    task.cancel()
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= 256 * 1024
    assert turns >= len(sizes) - 2


def skippable_frame(size: int) -> bytes:
    return b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)


@pytest.mark.parametrize(
    ("encoding", "member"),
    [
        ("gzip", gzip.compress(b"", mtime=0)),
        ("gzip", gzip.compress(b"", mtime=0) + b"\0" * 9),
        ("x-gzip", gzip.compress(b" ", mtime=0)),
        ("zstd", skippable_frame(0)),
        ("zstd", skippable_frame(100)),
    ],
)
async def test_many_members_are_a_400_however_little_they_hold(make_app: MakeApp, encoding: str, member: bytes) -> None:
    pack = zstd if encoding == "zstd" else gzip.compress
    app = make_app()
    for size in (1 << 20, 7):
        few = await send(app, encoding, member * 60 + pack(HELLO), size)
        many = await send(app, encoding, member * 64 + pack(HELLO), size)
        assert few.status_code == 200
        assert (many.status_code, many.json()["error"]["code"]) == (400, "invalid_encoding")
        assert "64 members" in many.json()["error"]["message"]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("zstd", skippable_frame(50_000) * 30),
        ("gzip", gzip.compress(HELLO, mtime=0) + b"\0" * 1_500_000),
        ("deflate", zlib.compress(HELLO) + b"x" * 1_500_000),
        ("deflate", bare_deflate(b"")[:-2] + b"\0\0\0\xff\xff" * 300_000),
    ],
)
async def test_what_unpacks_to_nothing_counts_as_it_arrives(make_app: MakeApp, encoding: str, body: bytes) -> None:
    pytest.importorskip("backports.zstd")
    left = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    count = len(left)

    async def pieces() -> AsyncIterator[bytes]:
        while left:
            yield left.pop(0)

    async with client_of(make_app(max_body_bytes=1_000_000)) as http:
        answer = await http.post("/v1/route", content=pieces(), headers={"content-encoding": encoding})

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert "packed" in answer.json()["error"]["message"]
    assert count > 100


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/"])
async def test_an_upload_may_be_packed_up_to_the_size_of_a_file(path: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    async def upload(size: int) -> None:
        left = [{"type": "http.request", "body": gzip.compress(b"x") + b"\0" * size, "more_body": False}]

        async def receive() -> Any:
            return left.pop()

        scope = {"type": "http", "path": path, "headers": [(b"content-encoding", b"gzip")]}
        await Unpacked(app, Settings(max_body_bytes=1000, max_file_bytes=2_000_000))(scope, receive, receive)

    await upload(2_000_000)
    with pytest.raises(BodyTooLargeError):
        await upload(4_000_000)


async def test_a_byte_order_mark_is_dropped_and_other_encodings_are_named(make_app: MakeApp) -> None:
    app = make_app()
    text = HELLO.decode()
    assert (await send(app, "", text.encode("utf-8-sig"))).status_code == 200
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk"):
        answer = await send(app, "", text.encode(encoding))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_encoding")
        assert "UTF-8" in answer.json()["error"]["message"]
        assert encoding == "gbk" or encoding[:6].upper() in answer.json()["error"]["message"]
    assert (await send(app, "", b"{")).json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(("name", "encoding"), [("body.json.gz", "gzip"), ("body-with-bom.json", "")])
async def test_the_bodies_of_users(make_app: MakeApp, name: str, encoding: str) -> None:
    path = Path(__file__).parents[4] / "shared" / "cases" / name
    if not path.is_file():
        pytest.skip("the cases are not here")
    assert (await send(make_app(), encoding, path.read_bytes())).status_code == 200
