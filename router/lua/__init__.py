"""The scripts that redis runs: each is one atomic step, written in Lua, in a file of its own.

In: the name of a script and its arguments by name. Out: what it returns. A file begins with what it does, takes and
returns, then names its parts (``--@include NAME``: of ``include/``, once each) and its arguments (``local a, b =
unpack(ARGV)``), in the order in which they are sent. All keys begin with ``KEYS[1]``. An argument named ``now`` is a
clock reading, '' for redis' own clock. Every write by a worker carries the epoch it was given when it took its unit; a
write with another epoch is refused, so a worker that was thought dead cannot change a record that has moved on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, ResponseError

from router.lua.constants import CONSTANTS
from router.redis import PREFIX, Clock, guard, not_replicated, state_of, while_heard
from router.redis_watch import watch_of

log = logging.getLogger(__name__)

_INCLUDE: Final = re.compile(r"--@include (\w+)\s*")
_ARGUMENTS: Final = re.compile(r"^local ([\w\s,]+?) = unpack\(ARGV\)$", re.MULTILINE)
_PLACE: Final = re.compile(r"user_script:(\d+)")

Argument = str | bytes | float


class JobScript(StrEnum):
    """Of the job record."""

    TOUCH = "jobs/touch"
    CREATE = "jobs/create"
    BEGIN = "jobs/begin"
    RETRY = "jobs/retry"
    PUT_FINISHED = "jobs/put_finished"
    NEXT = "jobs/next"
    CLAIM = "jobs/claim"
    RENEW = "jobs/renew"
    APPEND = "jobs/append"
    FINISH = "jobs/finish"
    RELEASE = "jobs/release"
    WAKE = "jobs/wake"
    COMPLETE = "jobs/complete"
    END = "jobs/end"
    CANCEL = "jobs/cancel"
    KEEP_AS = "jobs/keep_as"
    TELL = "jobs/tell"
    DESCRIBE = "jobs/describe"
    DELETE = "jobs/delete"
    PLACE = "jobs/place"
    BACKLOG = "jobs/backlog"
    REAP = "jobs/reap"
    LIST = "jobs/list"


class FileScript(StrEnum):
    """Of stored files."""

    ADD_CHUNK = "files/add_chunk"
    ABORT_UPLOAD = "files/abort_upload"
    COMMIT_FILE = "files/commit_file"
    DELETE_FILE = "files/delete_file"


class BatchScript(StrEnum):
    """Of the batch record."""

    CREATE = "batches/create"
    CLAIM = "batches/claim"
    RENEW = "batches/renew"
    START = "batches/start"
    FAIL = "batches/fail"
    ADMIT = "batches/admit"
    SKIP = "batches/skip"
    RETRY = "batches/retry"
    RECORD = "batches/record"
    FINALIZE = "batches/finalize"
    FINISH = "batches/finish"
    CANCEL = "batches/cancel"


class WebhookScript(StrEnum):
    """Of endpoints and deliveries."""

    EMIT = "webhooks/emit"
    CREATE_ENDPOINT = "webhooks/create_endpoint"
    UPDATE_ENDPOINT = "webhooks/update_endpoint"
    DELETE_ENDPOINT = "webhooks/delete_endpoint"
    ROTATE = "webhooks/rotate"
    IS_DUE = "webhooks/is_due"
    TAKE = "webhooks/take"
    RECORD = "webhooks/record"
    REDELIVER = "webhooks/redeliver"


class KeyScript(StrEnum):
    """Of idempotency keys."""

    CLAIM = "idempotency/claim"
    RENEW = "idempotency/renew"
    SETTLE = "idempotency/settle"


class LimitScript(StrEnum):
    """Of what callers are charged."""

    CHARGE = "limits/charge"
    SETTLE = "limits/settle"
    RENEW = "limits/renew"


class AuthScript(StrEnum):
    """Of owners and their keys."""

    CHANGE = "auth/change"


class CacheScript(StrEnum):
    """Of kept answers."""

    FIND = "cache/find"
    PUT = "cache/put"
    FORGET = "cache/forget"


class MetricsScript(StrEnum):
    """Of what is measured."""

    TAKE = "metrics/take"


Script = (
    JobScript
    | FileScript
    | BatchScript
    | WebhookScript
    | KeyScript
    | LimitScript
    | AuthScript
    | CacheScript
    | MetricsScript
)

# What they write is announced: an id is given out, a secret shown, a key revoked. The rest is done again if it is lost.
ANNOUNCED: Final[frozenset[Script]] = frozenset(
    {
        JobScript.CREATE,
        JobScript.BEGIN,
        JobScript.RETRY,
        JobScript.PUT_FINISHED,
        FileScript.COMMIT_FILE,
        BatchScript.CREATE,
        WebhookScript.CREATE_ENDPOINT,
        WebhookScript.ROTATE,
        AuthScript.CHANGE,
    }
)
# A replica acknowledges ten times a second, and at once when it is asked.
_REPLICAS_MS: Final = 3000


# Whoever runs these gives them up by itself, but not while large pictures may be what keeps redis busy.
_PATIENT: Final = frozenset({JobScript.CREATE, JobScript.BEGIN, JobScript.PUT_FINISHED})


@dataclass(frozen=True, slots=True)
class Source:
    """A script as redis gets it.

    Attributes:
        text: with its parts in place of their names.
        places: by line of the text, from the first on: the file and the line that it comes from.
        arguments: their names, in order.
    """

    text: str
    places: tuple[tuple[str, int], ...]
    arguments: tuple[str, ...]

    def place_of(self, message: str) -> str:
        """Say where a script failed, by the line that redis' message names; empty if it names none."""
        found = _PLACE.search(message)
        number = int(found[1]) if found else 0
        return "{}:{}".format(*self.places[number - 1]) if 0 < number <= len(self.places) else ""


@cache
def load(script: Script) -> Source:
    """Read a script and its parts."""
    lines: list[str] = []
    places: list[tuple[str, int]] = []
    _read(f"{script}.lua", set(), lines, places)
    body = "".join(lines)
    words = set(re.findall(r"\b[A-Z_]+\b", body))
    constants = {name: value for name, value in CONSTANTS.items() if name in words}
    if constants:  # on one line, so that the others are numbered as they stand
        names, values = ", ".join(constants), ", ".join(map(_to_lua, constants.values()))
        lines.insert(0, f"local {names} = {values}\n")
        places.insert(0, ("constants.py", 1))
    found = _ARGUMENTS.search(body)
    return Source("".join(lines), tuple(places), tuple(re.findall(r"\w+", found[1])) if found else ())


class Scripts:
    """Runs scripts.

    Args:
        redis: an asyncio client that returns bytes; its pool says how many replicas must have what is announced, and
            whose silence gives up what is under way.
        clock: unix seconds; None uses the redis server's own clock.
    """

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self._clock = clock
        self._redis = redis
        self._num_replicas: int = getattr(redis.connection_pool, "num_replicas", 0)
        self._register: Callable[[str], AsyncScript] = redis.register_script
        self._registered: dict[Script, AsyncScript] = {}
        self._watch = watch_of(redis)

    async def run(self, script: Script, *more: Argument, **arguments: Argument) -> Any:
        """Run a script.

        Args:
            script: which.
            more: what follows the arguments that have names.
            arguments: by name; ``now`` is added.

        Raises:
            TypeError: if they are not those that the script names.
            QueueUnavailableError: if redis does not answer.
            NotReplicatedError: if it did this, but too few replicas have it.
            StorageFullError: if it has no room left.
        """
        source = load(script)
        if "now" in source.arguments:
            arguments["now"] = "" if self._clock is None else repr(self._clock())
        if arguments.keys() != set(source.arguments):
            raise TypeError(f"{script}.lua takes {', '.join(source.arguments)}; not {', '.join(arguments)}")
        words = [arguments[name] for name in source.arguments]
        async with while_heard(None if script in _PATIENT else self._watch):
            return await self._run(script, source, [*words, *more])

    async def _run(self, script: Script, source: Source, words: list[Argument]) -> Any:
        if script not in self._registered:
            self._registered[script] = self._register(source.text)
        if self._num_replicas and script in ANNOUNCED:
            answer, number = await guard(self._call(script, source, words, waits=True))
            if number < self._num_replicas:
                raise not_replicated(number, self._num_replicas)
            return answer
        return await guard(self._call(script, source, words))

    async def _call(self, script: Script, source: Source, words: list[Argument], *, waits: bool = False) -> Any:
        registered = self._registered[script]
        try:
            if not waits:
                return await registered(keys=[PREFIX], args=words)
            try:
                return await self._call_and_wait(registered.sha, words)
            except NoScriptError:
                await self._redis.script_load(source.text)
                return await self._call_and_wait(registered.sha, words)
        except ResponseError as error:
            # What says that redis is full, loading, read only or without its replicas is no bug; the rest is.
            is_bug = type(error) is ResponseError and state_of(error) == "away"
            if is_bug and (place := source.place_of(str(error))):
                log.error("the script %s failed at router/lua/%s: %s", script, place, error)
            raise

    async def _call_and_wait(self, sha: str, words: list[Argument]) -> tuple[Any, int]:
        """Run a script, and return also how many replicas have what it wrote, and all that was written before it."""
        async with self._redis.pipeline(transaction=False) as calls:  # WAIT is about writes of its own connection
            calls.evalsha(sha, 1, PREFIX, *words)
            calls.execute_command("WAIT", self._num_replicas, _REPLICAS_MS)
            # Not raised by the pipeline: it puts the command, a question with it, before what redis says.
            answer, number = await calls.execute(raise_on_error=False)
        for each in (answer, number):
            if isinstance(each, Exception):
                raise each
        return answer, int(number)


def to_fields(words: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields of a hash that a script returned: names and values in turn."""
    return dict(zip(words[::2], words[1::2], strict=True))


def _read(name: str, seen: set[str], lines: list[str], places: list[tuple[str, int]]) -> None:
    seen.add(name)
    text = files(__name__).joinpath(*name.split("/")).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        found = _INCLUDE.fullmatch(line)
        if found is None:
            lines.append(line)
            places.append((name, number))
        elif f"include/{found[1]}.lua" not in seen:
            _read(f"include/{found[1]}.lua", seen, lines, places)


def _to_lua(value: float | str) -> str:
    return f"'{value}'" if isinstance(value, str) else repr(value)
