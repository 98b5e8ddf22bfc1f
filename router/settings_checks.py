"""What a setting may be: the checks of `router.settings`, each of one value.

In: a value as the environment has it, or as pydantic read it. Out: what is kept of it; a `ValueError` says what would
be accepted and repeats no secret. Compose files pass variables that are not set as empty ones: those are the defaults.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final, TypeVar

from pydantic import SecretStr, ValidationInfo

from engines.adapter_names import parse_adapters
from engines.http.address import split_urls
from router.owner_ids import is_owner_id
from router.redis_address import check_redis_url, read
from router.scopes import Scope

DEFAULT_REDIS_URL: Final = "redis://127.0.0.1:6379/0"
DEFAULT_TOKEN_SCOPES: Final[tuple[Scope, ...]] = ("ask", "jobs", "files")
DEFAULT_WEBHOOK_DELAYS_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0)
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
LOGGING_PROCESSES: Final = ("api", "worker", "glm", "owl2")
MAX_WEBHOOK_DELAY_S: Final = 72 * 3600.0
_MIN_JWT_SECRET_BYTES: Final = 32

Value = TypeVar("Value")
Keys = TypeVar("Keys", tuple[SecretStr, ...], SecretStr | None)


def split_words(value: object) -> object:
    """Split a text at its commas; anything else stays."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def split_adapters(value: object) -> object:
    """Read ``NAME=SOURCE`` between commas; anything else stays."""
    if isinstance(value, str):
        return parse_adapters(text for text in value.split(",") if text.strip())
    return value


def check_owners(ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return ids of owners. A name in their place would be nobody's, without a word.

    Raises:
        ValueError: naming the first that is none.
    """
    for each in ids:
        if not is_owner_id(each):
            raise ValueError(f"'{each}' is no id of an owner; `glowl owners list` shows them, such as own_1f2e...")
    return ids


def split_captures(value: object) -> object:
    """Read ``OWNER=text`` or ``OWNER=pictures`` between commas; anything else stays.

    Raises:
        ValueError: if it is neither.
    """
    if not isinstance(value, str):
        return value
    pairs = [tuple(word.strip() for word in text.partition("=")[::2]) for text in value.split(",") if text.strip()]
    for owner, captures in pairs:
        if not owner or captures not in ("text", "pictures"):
            raise ValueError("say OWNER=text or OWNER=pictures, such as local=pictures, separated by commas")
    check_owners(tuple(owner for owner, _ in pairs))
    return tuple(pairs)


def or_none(value: object) -> object:
    """Take an empty text for None."""
    return (value.strip() or None) if isinstance(value, str) else value


def to_flag(value: object) -> object:
    """Take an empty text for False."""
    return False if value == "" else value


def to_listening(value: object) -> object:
    """Read ``HOST:PORT``; an empty text is none.

    Raises:
        ValueError: if it is neither.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    host, colon, port = value.strip().rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("write HOST:PORT, such as 127.0.0.1:9101")
    return host.strip("[]"), int(port)


def to_audit(value: object) -> object:
    """Take the usual words of flags for ``off`` and ``on``."""
    word = value.strip().lower() if isinstance(value, str) else value
    if word in ("", "0", "false", "no", False):
        return "off"
    return "on" if word in ("1", "true", "yes", True) else word


def check_keys(value: Keys) -> Keys:
    """Refuse keys that no client can send."""
    for key in value if isinstance(value, tuple) else (value,):
        if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()):
            raise ValueError("a key has only ASCII letters, digits and signs, no spaces: clients send no others")
    return value


def check_jwt_secrets(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Refuse secrets that are guessed, or are none."""
    for secret in value:
        if len(secret.get_secret_value().encode()) < _MIN_JWT_SECRET_BYTES:
            raise ValueError(
                f"a secret has at least {_MIN_JWT_SECRET_BYTES} bytes: shorter ones are guessed. "
                "`openssl rand -hex 32` makes one"
            )
        if "-----BEGIN" in secret.get_secret_value():
            raise ValueError("this is a PEM file, no secret; public keys go into a JWKS: GLOWL_JWT_JWKS")
    return value


def check_issuer(value: Value, info: ValidationInfo) -> Value:
    """Want to know whose tokens an issuer's keys sign for whom: they sign for others too."""
    if info.data.get("jwt_jwks") and not value:
        raise ValueError("is needed with GLOWL_JWT_JWKS: without it, tokens made for other services would pass")
    return value


def or_default_scopes(value: tuple[Scope, ...]) -> tuple[Scope, ...]:
    """Take none for the default."""
    return value or DEFAULT_TOKEN_SCOPES


def check_signing_secrets(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Refuse what Standard Webhooks receivers would not take."""
    for each in value:
        secret = each.get_secret_value()
        try:
            size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
        except binascii.Error:
            size = 0
        if not secret.startswith("whsec_") or not 24 <= size <= 64:
            raise ValueError("a signing secret is 'whsec_' and 24 to 64 bytes in base64")
    return value


def check_hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no name or address of a host."""
    hosts = tuple(host.lower().strip("[]").removesuffix(".") for host in value)
    if not all(host == "*" or re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", host) for host in hosts):
        raise ValueError("each is a host name or an address, without a port: glowl.example.com")
    return hosts


def check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what no browser sends as ``Origin``."""
    origins = tuple(origin.lower().removesuffix("/") for origin in value)
    if not all(origin == "*" or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+", origin) for origin in origins):
        raise ValueError("each is * or a scheme and a host, with its port if any: https://app.example.com")
    return origins


def check_delays(value: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse waits that never end or never begin."""
    if not value:
        return DEFAULT_WEBHOOK_DELAYS_S
    if not all(0 < delay_s <= MAX_WEBHOOK_DELAY_S for delay_s in value):
        raise ValueError(f"each wait is more than 0 and at most {MAX_WEBHOOK_DELAY_S:.0f} seconds")
    return value


def check_redis(value: str) -> str:
    """Refuse an address that means different things to different readers, or names files that cannot be read."""
    value = value.strip()
    if not value:
        return DEFAULT_REDIS_URL
    check_redis_url(value)
    # Later each connection would fail with the words of a missing socket.
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if f"{name}=" in value and (path := read(value).tls_options.get(name)):
            try:
                Path(path).open("rb").close()
            except OSError as error:
                raise ValueError(f"the file of {name} cannot be read: {error.strerror}") from None
    return value


def check_levels(value: str) -> str:
    """Refuse what is no level of a log, or names no process: ``INFO``, or ``INFO,glm=DEBUG``."""
    words = [word.strip() for word in value.split(",") if word.strip()]
    found = [word.rpartition("=") for word in words]
    processes = [process.strip().lower() for process, _, _ in found]
    levels = [level.strip().upper() for _, _, level in found]
    if any(level not in LOG_LEVELS for level in levels):
        raise ValueError(f"choose from {', '.join(LOG_LEVELS)}")
    if any(process not in ("", *LOGGING_PROCESSES) for process in processes):
        raise ValueError(f"PROCESS=LEVEL takes one of {', '.join(LOGGING_PROCESSES)}")
    if len(set(processes)) < len(processes):
        raise ValueError(f"give one level of {', '.join(LOG_LEVELS)}, and PROCESS=LEVEL where another is wanted")
    pairs = zip(processes, levels, strict=True)
    return ",".join(f"{process}={level}" if process else level for process, level in pairs) or LOG_LEVELS[1]


def level_of(levels: str, process: str) -> str:
    """Return the level of one process, of what `check_levels` has let through."""
    by_process = {name: level for name, _, level in (word.rpartition("=") for word in levels.split(","))}
    return by_process.get(process) or by_process.get("", LOG_LEVELS[1])


def or_auto(value: object) -> object:
    """Take an empty text for ``auto``."""
    return (value.strip().lower() or "auto") if isinstance(value, str) else value


def to_program(value: object) -> object:
    """Take an empty text for ``auto``; a path keeps its letters."""
    if not isinstance(value, str):
        return value
    word = value.strip()
    return word.lower() or "auto" if word.lower() in ("", "auto", "off") else word


def check_address(value: str) -> str:
    """Refuse what leads to no engine."""
    split_urls(value)
    return value
