"""The address of redis as people write it: what is wrong with it, what it says, and how it may be shown.

In: ``REDIS_URL``. Out: a reason to refuse it; a `RedisAddress`, from which `router.redis_clients` and
`router.jobs.broker` make connections; or the address without its credentials. No part of a password is in what people
see: a URL whose password is not percent-encoded has pieces of it everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

SENTINEL_PORT: Final = 26379
_SENTINEL_SCHEMES: Final = ("sentinel", "sentinels")
_TLS_SCHEMES: Final = ("rediss", "sentinels")
_SENTINEL_CREDENTIALS: Final = ("sentinel_username", "sentinel_password")

_FORMS: Final = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, unix:///PATH[?db=DB], or "
    "sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB], sentinels:// for TLS"
)
_ESCAPE: Final = (
    "the user or the password has characters that a URL gives another meaning; write them as "
    "/ %2F, ? %3F, # %23, @ %40, [ %5B, ] %5D, % %25, a space %20"
)
# A credential: percent-encoded bytes, or characters without another meaning in a URL.
_CREDENTIAL: Final = re.compile(r"(?:[^/?#@\[\]%\s]|%[0-9A-Fa-f]{2})*")
# Sentinel itself takes these characters for the name of a service.
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where redis is, and how to speak to it.

    Attributes:
        is_tls: whether with TLS, also to the sentinels.
        sentinels: hosts and ports of sentinels, which know where redis is; empty if the address names redis itself.
        service: the name under which they know it.
        options: of redis-py's connections: ``host`` and ``port``, or ``path``, unless sentinels know them; ``db``,
            ``username``, ``password``, ``ssl_...`` and what else the URL has.
        sentinel_options: of connections to the sentinels: their own user and password, and ``ssl_...``.
    """

    is_tls: bool
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket."""
        return "path" in self.options

    def at(self, host: str, port: int) -> RedisAddress:
        """The address of one redis that sentinels named."""
        return RedisAddress(self.is_tls, options={**self.options, "host": host, "port": port})

    @property
    def tls_options(self) -> dict[str, Any]:
        """What is said of certificates."""
        return {name: value for name, value in self.options.items() if name.startswith("ssl_")}


def check_redis_url(url: str) -> None:
    """Make sure that a URL means the same to everyone who reads it.

    Raises:
        ValueError: if it does not; the message says what to write, and repeats nothing of the URL.
    """
    scheme, credentials, address = _split(url)
    user, colon, password = credentials.partition(":")
    if credentials and not colon:
        raise ValueError(f"a password follows a colon, also without a user: {scheme}://:PASSWORD@HOST")
    if not _CREDENTIAL.fullmatch(user) or not _CREDENTIAL.fullmatch(password):
        raise ValueError(_ESCAPE)
    if "#" in address:
        raise ValueError(f"the host or its port cannot be read: {_FORMS} is expected")
    where, _, query = address.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    names = {name for name, _value in pairs}
    if {"username", "password"} & names:
        raise ValueError(f"user and password belong before the host: {_FORMS}")
    databases = [value for name, value in pairs if name == "db"]
    if scheme == "unix":
        if not where.startswith("/"):
            raise ValueError("the socket needs its whole path: unix:///PATH")
    else:
        databases += _check_hosts(scheme, where)
    if scheme not in _SENTINEL_SCHEMES and names & set(_SENTINEL_CREDENTIALS):
        raise ValueError(f"there are no sentinels in it: {_FORMS}")
    if not all(database.isascii() and database.isdigit() for database in databases):
        raise ValueError(f"DB is the number of a database: {_FORMS}")
    if names - {"db"}:
        _check_options(url)


def read(url: str) -> RedisAddress:
    """Read a URL that `check_redis_url` accepts."""
    from redis.asyncio.connection import parse_url

    scheme, credentials, address = _split(url)
    is_tls = scheme in _TLS_SCHEMES
    if scheme not in _SENTINEL_SCHEMES:
        options = dict(parse_url(url))
        options.pop("connection_class", None)
        return RedisAddress(is_tls, options=options)
    where, _, query = address.partition("?")
    hosts, _, path = where.partition("/")
    service, _, database = path.partition("/")
    pairs = parse_qsl(query, keep_blank_values=True)
    own = {name.removeprefix("sentinel_"): value for name, value in pairs if name in _SENTINEL_CREDENTIALS}
    rest = urlencode([pair for pair in pairs if pair[0] not in _SENTINEL_CREDENTIALS])
    login = f"{credentials}@" if credentials else ""
    options = dict(parse_url(f"{'rediss' if is_tls else 'redis'}://{login}redis/{database}?{rest}"))
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return RedisAddress(
        is_tls,
        sentinels=tuple(map(_to_host, hosts.split(","))),
        service=service,
        options=options,
        sentinel_options={**own, **tls, **({"ssl": True} if is_tls else {})},
    )


def shown(url: str) -> str:
    """The URL without credentials and options, for people; one that `check_redis_url` refuses is not shown at all."""
    try:
        check_redis_url(url)
    except ValueError:
        return "REDIS_URL"
    scheme, _credentials, address = _split(url)
    return f"{scheme}://{address.partition('?')[0]}"


def _split(url: str) -> tuple[str, str, str]:
    """Return the scheme, the credentials and the rest."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix", *_SENTINEL_SCHEMES):
        raise ValueError(f"an address such as {_FORMS} is expected")
    # A path of a unix socket may hold an @; everywhere else it ends the credentials, and only the last one can.
    if rest.startswith("/"):
        return scheme, "", rest
    credentials, at, address = rest.rpartition("@")
    # Something before an @, be it nothing, is a user without a password.
    return scheme, credentials if credentials or not at else "@", address


def _check_hosts(scheme: str, where: str) -> list[str]:
    """Check hosts, ports and what names a service; return the databases that are named."""
    hosts, _, path = where.partition("/")
    if scheme in _SENTINEL_SCHEMES:
        service, _, database = path.partition("/")
        if not _SERVICE.fullmatch(service):
            raise ValueError(f"the sentinels need the name of their service, such as mymaster: {_FORMS}")
        for host in hosts.split(","):
            _check_host(host)
            if not host:
                raise ValueError(f"the host or its port cannot be read: {_FORMS} is expected")
        return [database] if database else []
    _check_host(hosts)
    return [path] if path else []


def _check_host(where: str) -> None:
    try:
        port = urlsplit(f"redis://{where}").port
    except ValueError:
        port = 0
    if port == 0 or "," in where:
        raise ValueError(f"the host or its port cannot be read: {_FORMS} is expected")


def _to_host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"redis://{text}")
    return parts.hostname or "127.0.0.1", parts.port or SENTINEL_PORT


def _check_options(url: str) -> None:
    """Refuse options that redis-py's connections do not have, before the first of them is made."""
    from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
    from redis.exceptions import RedisError

    try:
        address = read(url)
        kind = SSLConnection if address.is_tls else UnixDomainSocketConnection if address.is_unix else Connection
        # These are the pool's.
        mine = {name: value for name, value in address.options.items() if name not in ("max_connections", "timeout")}
        kind(**mine)
    except (TypeError, ValueError, RedisError):
        raise ValueError(
            "one of the options after the ? does not exist, or not with this scheme, or has a wrong value; with "
            "rediss:// and sentinels:// there are ssl_ca_certs=FILE, ssl_certfile=FILE, ssl_keyfile=FILE, "
            "ssl_check_hostname=false and ssl_cert_reqs=none"
        ) from None
