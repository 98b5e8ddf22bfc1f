"""Can a redis that somebody else runs be used? Every way in which it cannot has a sentence that says what to do.

In: its URL, as `redis_address.check_redis_url` accepts it. Out: its version, or the text that names the problem. Where
the URL names sentinels, they are asked first, and then the redis that they name is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass, replace
from typing import Any, Final

from engines.http.address import url_host
from policies.text import Language
from router.cli.redis_server import MIN_VERSION, parse_version
from router.cli.texts import say
from router.redis_address import RedisAddress, read, shown

TIMEOUT_S = 2.0
# The verify codes of OpenSSL for a name or an address that the certificate is not for.
_OTHER_HOST: Final = (62, 64)
_AWAY: Final = ("redis.refused", "redis.silent", "redis.closed", "redis.host", "redis.other", "redis.unknown")


@dataclass(frozen=True, slots=True)
class RedisFound:
    """What a look at a redis found.

    Attributes:
        version: of a redis that can be used; ``?`` if it does not say.
        problem: else the key of the text that says why not; empty if it can be used.
        detail: what that text needs to know; never a part of the URL.
        where: the address with the problem, without credentials, if it is another than the URL: a sentinel, or the
            redis that sentinels name.
        risk: of one that can be used, the key of the text that says how it may lose accepted jobs; empty for none.
    """

    version: str = ""
    problem: str = ""
    detail: str = ""
    where: str = ""
    risk: str = ""

    def say(self, url: str, language: Language) -> str:
        """The problem, for people.

        Args:
            url: that was looked at; it is shown without its credentials.
            language: of the text.
        """
        return say(self.problem, language, url=self.where or shown(url), detail=self.detail)


async def look_at(url: str, *, timeout_s: float = TIMEOUT_S, num_replicas: int = 0) -> RedisFound:
    """Connect once, and look whether what answers is a redis that takes jobs.

    Args:
        url: of the redis, or of its sentinels.
        timeout_s: of each command.
        num_replicas: that it must have (`GLOWL_REDIS_WAIT`).
    """
    address = read(url)
    if address.is_tls and (wrong := _wrong_file(address)):
        return RedisFound(problem="redis.tls.file", detail=wrong)
    if not address.sentinels:
        return await _look_at(address, timeout_s, num_replicas)
    found = await _ask_sentinels(address, timeout_s)
    if isinstance(found, RedisFound):
        return found
    where = f"{'rediss' if address.is_tls else 'redis'}://{url_host(found[0])}:{found[1]}"
    return replace(await _look_at(address.at(*found), timeout_s, num_replicas), where=where)


async def _look_at(address: RedisAddress, timeout_s: float, num_replicas: int) -> RedisFound:
    from redis.exceptions import RedisError, ResponseError

    from router.redis_clients import make_client

    client = make_client(address, timeout_s=timeout_s)
    try:
        await client.ping()
        info: dict[str, Any] = {}
        with contextlib.suppress(ResponseError):  # a user who may not ask is still one who may work
            info = await client.info()
        return _judge(info, num_replicas)
    except (RedisError, OSError) as error:
        problem = _explain(error)
        if problem in ("redis.silent", "redis.closed") and not address.is_unix:
            host, port = address.options.get("host", "127.0.0.1"), address.options.get("port", 6379)
            problem = await _look_closer(address, host, port, timeout_s) or problem
        return RedisFound(problem=problem, detail=type(error).__name__)
    finally:
        # What made the connection fail may make its end fail too.
        with contextlib.suppress(RedisError, OSError, TypeError):
            await client.aclose()


async def _ask_sentinels(address: RedisAddress, timeout_s: float) -> RedisFound | tuple[str, int]:
    """Ask where redis is, one sentinel after the other; if none says, return what most hinders them."""
    from redis.exceptions import RedisError

    from router.redis_master import sentinels_of

    asked = sentinels_of(address)
    problems: list[RedisFound] = []
    try:
        for (host, port), sentinel in zip(address.sentinels, asked.sentinels, strict=True):
            where = f"{'sentinels' if address.is_tls else 'sentinel'}://{url_host(host)}:{port}"
            try:
                masters: Any = await sentinel.sentinel_masters()
            except (RedisError, OSError) as error:
                problem = _explain_sentinel(error)
                if problem == "redis.sentinels.away":
                    problem = await _look_closer(address, host, port, timeout_s) or problem
                problems.append(RedisFound(problem=problem, detail=type(error).__name__, where=where))
                continue
            state = masters.get(address.service)
            if state is None:
                known = ", ".join(sorted(map(str, masters))) or "-"
                problems.append(RedisFound(problem="redis.sentinels.service", detail=known, where=where))
            elif not asked.check_master_state(state, address.service):
                problems.append(RedisFound(problem="redis.sentinels.down", detail=address.service, where=where))
            else:
                return str(state["ip"]), int(state["port"])
    finally:
        with contextlib.suppress(RedisError, OSError):
            await asked.aclose()
    # A sentinel that is away is no news beside one that answers.
    return next((found for found in problems if found.problem != "redis.sentinels.away"), problems[0])


def _explain_sentinel(error: BaseException) -> str:
    if "unknown command" in str(error).lower():
        return "redis.sentinels.none"
    problem = _explain(error)
    if problem in ("redis.password.missing", "redis.password.wrong"):
        return "redis.sentinels.password"
    return "redis.sentinels.away" if problem in _AWAY else problem


def _wrong_file(address: RedisAddress) -> str:
    """Why certificates cannot be read, with the names of the options; empty if they can, or none are named."""
    from redis.asyncio.connection import SSLConnection

    try:
        SSLConnection(**address.tls_options).ssl_context.get()
    except OSError as error:  # errors of the ssl module among them
        named = [name for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in address.tls_options]
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        return f"{', '.join(named)}: {reason}"
    return ""


def _judge(info: dict[str, Any], num_replicas: int) -> RedisFound:
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
    connected = info.get("connected_slaves", num_replicas)
    if connected < num_replicas:
        return RedisFound(problem="redis.replicas", detail=f"{connected} < {num_replicas}")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if info.get("maxmemory", 0) and policy != "noeviction":
        return RedisFound(version, detail=policy, risk="doctor.redis.evicts")
    return RedisFound(version, risk="" if info.get("aof_enabled", 1) else "doctor.redis.forgets")


def _explain(error: BaseException) -> str:
    """The text about an error of redis-py, which keeps the system's own error behind its own."""
    from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse
    from redis.exceptions import TimeoutError as RedisTimeoutError

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    # On a unix socket redis-py puts what redis said behind an error of its own.
    said = "\n".join(map(str, chain))
    if any(isinstance(each, ssl.SSLCertVerificationError) and each.verify_code in _OTHER_HOST for each in chain):
        return "redis.tls.hostname"
    if any(isinstance(each, ssl.SSLError) and _is_about_ours(each) for each in chain):
        return "redis.tls.client"
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
    if any(isinstance(each, AuthenticationError) for each in chain):
        return "redis.password.wrong"
    if any(isinstance(each, RedisTimeoutError | TimeoutError) for each in chain):
        return "redis.silent"
    return "redis.closed" if any(isinstance(each, ConnectionError) for each in chain) else "redis.unknown"


def _is_about_ours(error: ssl.SSLError) -> bool:
    """Whether it is what a server said of the client's certificate."""
    words = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")
    return "ALERT" in str(error.reason) and any(word in str(error.reason) for word in words)


async def _look_closer(address: RedisAddress, host: str, port: int, timeout_s: float) -> str:
    """Why a server says nothing or hangs up: the text about TLS or certificates, or nothing if it is neither."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            if await _answers_plain(host, port) if address.is_tls else await _answers_tls(host, port):
                return "redis.tls.unwanted" if address.is_tls else "redis.tls.wanted"
            if address.is_tls and await _is_refused(address, host, port):
                return "redis.tls.client"
    return ""


async def _answers_plain(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"PING\r\n")
        return (await reader.read(1)) in (b"+", b"-")
    except ConnectionResetError:
        return False
    finally:
        writer.close()


async def _answers_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _reader, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.close()
    return True


async def _is_refused(address: RedisAddress, host: str, port: int) -> bool:
    """Whether the server refuses our certificate, or that there is none. It says so after the handshake, and what a
    client sends at the same moment can make the system drop it: so nothing is sent here.
    """
    from redis.asyncio.connection import SSLConnection

    context = SSLConnection(**address.tls_options).ssl_context.get()
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            await reader.read(1)
        finally:
            writer.close()
    except ssl.SSLError as error:
        return _is_about_ours(error)
    return False
