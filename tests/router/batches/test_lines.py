"""Lines of a stored file: found wherever they are cut, bounded, and judged one by one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from router.batches.files import FileGoneError, FileStore
from router.batches.lines import Line, LineLimits, parse_line, read_lines
from router.lua.constants import CHUNK_BYTES

CHAT = "/v1/chat/completions"
MAX_LINE = 2 * CHUNK_BYTES


@pytest.fixture
async def files(redis_url: str) -> AsyncIterator[FileStore]:
    redis = Redis.from_url(redis_url)
    yield FileStore(redis, max_file_bytes=16 * CHUNK_BYTES, max_total_bytes=64 * CHUNK_BYTES, ttl_s=3600)
    await redis.aclose()


async def store(files: FileStore, data: bytes) -> str:
    upload = files.begin("local")
    for at in range(0, len(data), 100_003):
        await upload.write(data[at : at + 100_003])
    return (await upload.commit("f", purpose="batch")).id


async def lines_of(files: FileStore, data: bytes, offset: int = 0, number: int = 0) -> list[Line]:
    lines = read_lines(
        files, await store(files, data), len(data), offset=offset, number=number, max_line_bytes=MAX_LINE
    )
    return [line async for line in lines]


async def test_lines_are_numbered_and_placed_whatever_ends_them(files: FileStore) -> None:
    data = b"\xef\xbb\xbffirst\r\n\n   \nsecond \nlast"

    lines = await lines_of(files, data)

    assert [(line.number, line.data) for line in lines] == [(1, b"first"), (4, b"second"), (5, b"last")]
    assert [data[line.offset : line.end].strip(b"\xef\xbb\xbf\r\n ") for line in lines] == [line.data for line in lines]


async def test_lines_are_whole_where_a_chunk_ends_inside_before_or_after_them(files: FileStore) -> None:
    texts = [b"a" * (CHUNK_BYTES - 1), b"b" * (CHUNK_BYTES - 1), b"c" * 7, b"d" * (CHUNK_BYTES + 3), b"e"]

    lines = await lines_of(files, b"\n".join(texts) + b"\n")

    assert [line.data for line in lines] == texts


async def test_a_line_that_is_too_long_comes_without_its_bytes_and_the_next_one_with(files: FileStore) -> None:
    lines = await lines_of(files, b"x" * (MAX_LINE + 5) + b"\nshort\n" + b"y" * (MAX_LINE + 1))

    assert [(line.number, line.data) for line in lines] == [(1, None), (2, b"short"), (3, None)]
    assert lines[0].num_bytes == MAX_LINE + 6


async def test_reading_goes_on_after_any_line(files: FileStore) -> None:
    data = b"one\ntwo\n\nthree"
    first, second, third = await lines_of(files, data)

    assert await lines_of(files, data, first.end, first.number) == [second, third]
    assert await lines_of(files, data, third.end, third.number) == []


async def test_a_range_is_read_over_the_ends_of_chunks_and_never_short(files: FileStore) -> None:
    data = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"tail"
    file_id = await store(files, data)

    for offset, size in ((0, 1), (CHUNK_BYTES - 2, 4), (CHUNK_BYTES, CHUNK_BYTES), (5, 2 * CHUNK_BYTES + 9)):
        assert await files.read(file_id, offset, size) == data[offset : offset + size]
    with pytest.raises(FileGoneError):
        await files.read(file_id, len(data) - 2, 3)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"custom_id": 7}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        ({"method": "post"}, "invalid_method", "method"),
        ({"url": "/v1/responses"}, "mismatched_endpoint", "url"),
        ({"body": []}, "invalid_body", "body"),
        ({"body": {"messages": [{}] * 20}}, "too_many_values", None),
        ({"more": [1] * 200}, "too_many_values", None),
    ],
)
def test_what_is_wrong_with_a_line_is_named_in_both_languages(
    changes: dict[str, object], code: str, param: str
) -> None:
    entry = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "glowl"}, **changes}

    parsed = parse_line(json.dumps(entry).encode(), CHAT, LineLimits(MAX_LINE, 10))

    assert parsed.body is None
    assert parsed.problem is not None
    assert (parsed.problem.code, parsed.problem.param) == (code, param)
    assert parsed.problem.text.en.isascii()
    assert not parsed.problem.text.zh.isascii()


@pytest.mark.parametrize(
    ("more", "name"),
    [('"method": "POST"', "method"), ('"more": {"content": 1, "x": 2, "content": 3}', "content")],
)
def test_a_line_with_a_name_twice_is_refused_under_its_own_id(more: str, name: str) -> None:
    line = f'{{"custom_id": "a", "method": "POST", "url": "{CHAT}", "body": {{"model": "m"}}, {more}}}'

    parsed = parse_line(line.encode(), CHAT, LineLimits(MAX_LINE, 10))

    assert (parsed.custom_id, parsed.body) == ("a", None)
    assert parsed.problem is not None
    assert (parsed.problem.code, parsed.problem.param) == ("repeated_name", name)
