"""One key of redis as a line of JSON, and back: what it holds, and when it expires.

In: keys, or lines. Out: lines, or the commands that write them. Values and not redis' own dumps of them: those are read
by servers of the same make and version only, and a backup is for when things have changed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from router.redis import guard

Json = dict[str, Any]

_NO_EXPIRY: Final = -1
_GONE: Final = -2
# A stream that has lost all its entries still knows its last id; it is made with one that is trimmed away.
_FIRST_ID: Final = "0-1"


async def read_keys(redis: Redis, keys: Sequence[bytes]) -> list[Json | None]:
    """Read keys; None for one that is not there.

    Args:
        redis: an asyncio client that returns bytes.
        keys: together no more than fits into memory.

    Raises:
        ValueError: for a type that Glowl does not use.
        QueueUnavailableError: when redis does not answer.
    """
    if not keys:
        return []
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    for key in keys:
        pipeline.type(key)
        pipeline.pttl(key)
    (seconds, micros), *told = await guard(pipeline.execute())
    now_ms = seconds * 1000 + micros // 1000
    types = [each.decode() for each in told[::2]]
    values = await _read(redis, keys, types)
    return [
        None if pttl == _GONE or value is None else _to_line(key, kind, value, pttl, now_ms)
        for key, kind, value, pttl in zip(keys, types, values, told[1::2], strict=True)
    ]


def write_line(pipeline: Any, key: bytes, line: Json) -> None:
    """Add the commands that write a key which is not there.

    Args:
        pipeline: of an asyncio client.
        key: to write to.
        line: of `read_keys`.

    Raises:
        KeyError, TypeError, ValueError: if it is no such line.
    """
    kind, value = line["type"], line["value"]
    if kind == "string":
        pipeline.set(key, _bytes(value))
    elif kind == "hash":
        pipeline.hset(key, items=[_bytes(part) for pair in value for part in pair])
    elif kind == "list":
        pipeline.rpush(key, *map(_bytes, value))
    elif kind == "set":
        pipeline.sadd(key, *map(_bytes, value))
    elif kind == "zset":
        pipeline.zadd(key, {_bytes(member): float(score) for member, score in value})
    elif kind == "stream":
        _write_stream(pipeline, key, value)
    else:
        raise ValueError(f"unknown type {kind!r}")
    if line["expires_at_ms"] is not None:
        pipeline.pexpireat(key, int(line["expires_at_ms"]))


def key_of(line: Json) -> bytes:
    """Return the key that a line is of.

    Raises:
        KeyError, TypeError, ValueError: if it is no line of a key.
    """
    return _bytes(line["key"])


def gone(key: bytes) -> Json:
    """Return the line which says that a key of an earlier line is gone."""
    return {"key": _text(key), "type": "none"}


async def _read(redis: Redis, keys: Sequence[bytes], types: Sequence[str]) -> list[Any]:
    pipeline: Any = redis.pipeline(transaction=False)
    for key, kind in zip(keys, types, strict=True):
        match kind:
            case "string":
                pipeline.get(key)
            case "hash":
                pipeline.hgetall(key)
            case "list":
                pipeline.lrange(key, 0, -1)
            case "set":
                pipeline.smembers(key)
            case "zset":
                pipeline.zrange(key, 0, -1, withscores=True)
            case "stream":
                pipeline.xrange(key)
                pipeline.xinfo_stream(key)
            case "none":
                pipeline.exists(key)
            case _:
                raise ValueError(f"{key!r} is a {kind}")
    found = iter(await guard(pipeline.execute(raise_on_error=False)))
    return [_checked(kind, next(found), next(found) if kind == "stream" else None) for kind in types]


def _checked(kind: str, value: Any, info: Any) -> Any:
    """Return a value; None for a key that went, or became something else, since its type was asked."""
    for each in (value, info):
        if isinstance(each, ResponseError):
            return None
        if isinstance(each, Exception):
            raise each
    if kind == "none":
        return None
    return {"entries": value, "last_id": info["last-generated-id"]} if kind == "stream" else value or None


def _to_line(key: bytes, kind: str, value: Any, pttl: int, now_ms: int) -> Json:
    said: Any
    if kind == "string":
        said = _text(value)
    elif kind == "hash":
        said = [[_text(name), _text(held)] for name, held in value.items()]
    elif kind == "zset":
        said = [[_text(member), repr(float(score))] for member, score in value]  # JSON knows no infinity
    elif kind == "stream":
        entries = [
            [name.decode(), [_text(part) for pair in fields.items() for part in pair]]
            for name, fields in value["entries"]
        ]
        said = {"entries": entries, "last_id": value["last_id"].decode()}
    else:
        said = [_text(each) for each in (sorted(value) if kind == "set" else value)]
    expires_at_ms = None if pttl == _NO_EXPIRY else now_ms + pttl
    return {"key": _text(key), "type": kind, "expires_at_ms": expires_at_ms, "value": said}


def _write_stream(pipeline: Any, key: bytes, value: Json) -> None:
    for name, parts in value["entries"]:
        words = list(map(_bytes, parts))
        pipeline.xadd(key, dict(zip(words[::2], words[1::2], strict=True)), id=name)
    if not value["entries"]:
        pipeline.xadd(key, {b"": b""}, id=_FIRST_ID)
        pipeline.xtrim(key, maxlen=0, approximate=False)
    pipeline.execute_command("XSETID", key, value["last_id"])


def _text(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(text: str | dict[str, str]) -> bytes:
    return text.encode() if isinstance(text, str) else base64.b64decode(text["base64"], validate=True)
