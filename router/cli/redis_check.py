"""Can a redis that somebody else runs be used? Every way in which it cannot has a sentence that says what to do.

In: its URL, as `redis_address.check_redis_url` accepts it. Out: its version, or the text that names the problem.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from router.cli.redis_server import MIN_VERSION, parse_version

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class RedisFound:
    """What a look at a redis found.

    Attributes:
        version: of a redis that can be used; ``?`` if it does not say.
        problem: else the key of the text that says why not; empty if it can be used.
        detail: what that text needs to know; never a part of the URL.
    """

    version: str = ""
    problem: str = ""
    detail: str = ""


async def look_at(url: str, *, timeout_s: float = TIMEOUT_S) -> RedisFound:
    """Connect once, and look whether what answers is a redis that takes jobs."""
    import redis.asyncio
    from redis.exceptions import RedisError

    client = redis.asyncio.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    try:
        await client.ping()
        info: dict[str, Any] = {}
        with contextlib.suppress(redis.exceptions.ResponseError):  # a user who may not ask is still one who may work
            info = await client.info()
        return _judge(info)
    except TypeError:  # of redis-py: an option in the URL that it does not have
        return RedisFound(problem="redis.option")
    except (RedisError, OSError) as error:
        problem = _explain(error)
        if problem in ("redis.silent", "redis.closed"):
            problem = await _with_or_without_tls(url, timeout_s) or problem
        return RedisFound(problem=problem, detail=type(error).__name__)
    finally:
        # What made the connection fail may make its end fail too.
        with contextlib.suppress(RedisError, OSError, TypeError):
            await client.aclose()


def _judge(info: dict[str, Any]) -> RedisFound:
    version = str(info.get("valkey_version") or info.get("redis_version") or "?")
    # Valkey answers with the version of the redis that it is compatible with, too.
    compatible = str(info.get("redis_version") or version)
    if compatible != "?" and parse_version(compatible) < MIN_VERSION:
        return RedisFound(problem="redis.old", detail=version)
    mode = info.get("redis_mode") or info.get("server_mode")
    if mode == "sentinel":
        return RedisFound(problem="redis.sentinel")
    if mode == "cluster" or info.get("cluster_enabled") == 1:
        return RedisFound(problem="redis.cluster")
    if info.get("role") == "slave" and info.get("slave_read_only", 1) == 1:
        return RedisFound(problem="redis.replica", detail=str(info.get("master_host") or "?"))
    return RedisFound(version)


def _explain(error: BaseException) -> str:
    """The text about an error of redis-py, which keeps the system's own error behind its own."""
    from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse
    from redis.exceptions import TimeoutError as RedisTimeoutError

    said = str(error)
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    for kind, problem in (
        (ssl.SSLCertVerificationError, "redis.tls.certificate"),
        (ssl.SSLError, "redis.closed"),
        (socket.gaierror, "redis.host"),
        (FileNotFoundError, "redis.socket.missing"),
        (PermissionError, "redis.socket.denied"),
        (ConnectionRefusedError, "redis.refused"),
    ):
        if any(isinstance(each, kind) for each in chain):
            return problem
    if isinstance(error, BusyLoadingError):
        return "redis.loading"
    if isinstance(error, InvalidResponse):
        return "redis.other"
    for piece, problem in (
        ("Authentication required", "redis.password.missing"),
        ("HELLO must be called with the client already authenticated", "redis.password.missing"),
        ("no permissions", "redis.user"),
        ("protected mode", "redis.protected"),
        ("DB index", "redis.db"),
        ("max number of clients", "redis.clients"),
        ("closed by server", "redis.closed"),
    ):
        if piece in said:
            return problem
    if isinstance(error, AuthenticationError):
        return "redis.password.wrong"
    if any(isinstance(each, RedisTimeoutError | TimeoutError) for each in chain):
        return "redis.silent"
    return "redis.closed" if any(isinstance(each, ConnectionError) for each in chain) else "redis.unknown"


async def _with_or_without_tls(url: str, timeout_s: float) -> str:
    """Whether the other scheme would be answered: the text about that, or nothing."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return ""
    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    context = None
    if parts.scheme == "redis":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                if context is not None:
                    return "redis.tls.wanted"
                writer.write(b"PING\r\n")
                if (await reader.read(1)) in (b"+", b"-"):
                    return "redis.tls.unwanted"
            finally:
                writer.close()
    return ""
