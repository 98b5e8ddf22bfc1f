"""The address of redis as people write it: what is wrong with it, and how it may be shown.

In: ``REDIS_URL``. Out: a reason to refuse it, or the address without its credentials. No part of a password is in
either: a URL whose password is not percent-encoded has pieces of it everywhere.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_FORMS: Final = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, or unix:///PATH[?db=DB]"
_ESCAPE: Final = (
    "the user or the password has characters that a URL gives another meaning; write them as "
    "/ %2F, ? %3F, # %23, @ %40, [ %5B, ] %5D, % %25, a space %20"
)
# A credential: percent-encoded bytes, or characters without another meaning in a URL.
_CREDENTIAL: Final = re.compile(r"(?:[^/?#@\[\]%\s]|%[0-9A-Fa-f]{2})*")


def check_redis_url(url: str) -> None:
    """Make sure that a URL means the same to everyone who reads it.

    Raises:
        ValueError: if it does not; the message says what to write, and repeats nothing of the URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"an address such as {_FORMS} is expected")
    # A path of a unix socket may hold an @; everywhere else it ends the credentials, and only the last one can.
    credentials, at, address = ("", "", rest) if rest.startswith("/") else rest.rpartition("@")
    if at:
        user, colon, password = credentials.partition(":")
        if not colon:
            raise ValueError(f"a password follows a colon, also without a user: {scheme}://:PASSWORD@HOST")
        if not _CREDENTIAL.fullmatch(user) or not _CREDENTIAL.fullmatch(password):
            raise ValueError(_ESCAPE)
    try:
        parts = urlsplit(f"{scheme}://{address}")
        port = parts.port if scheme != "unix" else None
    except ValueError:
        raise ValueError(f"the host or its port cannot be read: {_FORMS} is expected") from None
    if parts.fragment or "#" in address or port == 0:
        raise ValueError(f"the host or its port cannot be read: {_FORMS} is expected")
    query = parse_qsl(parts.query, keep_blank_values=True)
    if {"username", "password"} & {name for name, _value in query}:
        raise ValueError(f"user and password belong before the host: {_FORMS}")
    databases = [value for name, value in query if name == "db"]
    if scheme == "unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise ValueError("the socket needs its whole path: unix:///PATH")
    elif parts.path not in ("", "/"):
        databases.append(parts.path[1:])
    if not all(database.isascii() and database.isdigit() for database in databases):
        raise ValueError(f"DB is the number of a database: {_FORMS}")


def shown(url: str) -> str:
    """The URL without credentials and options, for people; one that `check_redis_url` refuses is not shown at all."""
    try:
        check_redis_url(url)
    except ValueError:
        return "REDIS_URL"
    scheme, _, rest = url.partition("://")
    address = rest if rest.startswith("/") else rest.rpartition("@")[2]
    return f"{scheme}://{address.partition('?')[0]}"
