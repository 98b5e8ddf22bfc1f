"""What is charged against limits: the nouns, and the same arithmetic as in redis for when redis is away.

In: costs and the subjects they count against. Out: an `Outcome` per request. `router/lua/include/limits.lua` explains
the arithmetic; here it is for one process.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, NamedTuple, Protocol

from router.limits.limits import UNLIMITED, Limits
from router.lua.constants import MINUTE_US, OPEN_WAIT_US, SET_BACK_US

# In the order of a `Cost`.
KINDS: Final = ("requests", "pictures", "megapixels", "tokens")
# The number, from 0 on, of the limit of open requests.
OPEN: Final = len(KINDS)
# Subjects that one process remembers while redis is away; the one that asked longest ago is forgotten first.
_MAX_SUBJECTS: Final = 10_000

SubjectKind = Literal["owner", "batch", "key", "address"]


class Cost(NamedTuple):
    """What one request is charged.

    Attributes:
        requests: 1, or 0 for the lines of batches.
        pictures: in it, those of earlier turns included.
        kilopixels: of these, in thousands of pixels; each picture has at least one.
        tokens: that it reads, and may write.
    """

    requests: int = 1
    pictures: int = 0
    kilopixels: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is charged.

    Attributes:
        kind: of what.
        name: a hash: keys and addresses stand in redis under no other name.
        limits: in the order of a `Cost`, per minute; None for no limit.
        max_open: requests at a time.
    """

    kind: SubjectKind
    name: str
    limits: tuple[int | None, int | None, int | None, int | None]
    max_open: int | None

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited."""
        return self.max_open is not None or any(limit is not None for limit in self.limits)


@lru_cache(maxsize=4096)
def to_subject(kind: SubjectKind, name: str, limits: Limits) -> Subject:
    """Return who is charged under a name."""
    hashed = hashlib.sha256(f"{kind}:{name}".encode()).hexdigest()[:32]
    megapixels = _known(limits.megapixels_per_minute)
    return Subject(
        kind,
        hashed,
        (
            _known(limits.requests_per_minute),
            _known(limits.pictures_per_minute),
            None if megapixels is None else megapixels * 1000,
            _known(limits.tokens_per_minute),
        ),
        _known(limits.max_requests),
    )


def _known(limit: int | None) -> int | None:
    return None if limit == UNLIMITED else limit


@dataclass(frozen=True, slots=True)
class Standing:
    """How one subject stands after a charge, or a refusal.

    Attributes:
        remaining: per kind, how much more would be taken now; None without a limit.
        reset_us: per kind, after how many microseconds nothing is owed any more.
    """

    remaining: tuple[int | None, ...]
    reset_us: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a charge.

    Attributes:
        standings: of the subjects, in order.
        page: of the ledger; empty if it was refused.
        refused_by: which subject, from 0 on; None if it was charged.
        kind: which of its limits: of `KINDS`, or `OPEN`.
        wait_us: after how many microseconds there is room for the same request, if no other comes.
    """

    standings: tuple[Standing, ...]
    page: str = ""
    refused_by: int | None = None
    kind: int = 0
    wait_us: int = 0


@dataclass(slots=True)
class _Meter:
    at: int = 0
    owed: list[int] = field(default_factory=lambda: [0] * len(KINDS))
    open: int = 0

    def move_to(self, now: int, limits: Sequence[int | None]) -> None:
        if self.at - now > SET_BACK_US:  # as in redis: what is owed drains from now on
            self.at = now
        passed, self.at = max(now - self.at, 0), max(now, self.at)
        self.owed = [
            0 if limit is None else max(owed - passed * limit, 0) for owed, limit in zip(self.owed, limits, strict=True)
        ]


@dataclass(slots=True)
class Held:
    """A reservation made in this process.

    Attributes:
        subjects: that it was charged to.
        tokens: reserved.
        at: when, in microseconds.
        last: per subject, what was owed with this request as the last one.
    """

    subjects: Sequence[Subject]
    tokens: int
    at: int
    last: tuple[int, ...]


class LocalMeters:
    """The meters of one process: each process then has the whole of each limit for itself."""

    def __init__(self) -> None:
        self._meters: OrderedDict[str, _Meter] = OrderedDict()

    def charge(self, cost: Cost, subjects: Sequence[Subject], now: int) -> tuple[Outcome, Held | None]:
        """Charge a request to all of its subjects, or to none.

        Args:
            cost: of the request.
            subjects: that it counts against.
            now: in microseconds.

        Returns:
            The outcome, and what `settle` takes; None if it was refused.
        """
        meters = [self._meter(subject, now) for subject in subjects]
        refused: tuple[int, int, int] | None = None  # wait, subject, kind
        for number, (subject, meter) in enumerate(zip(subjects, meters, strict=True)):
            for kind, limit in enumerate(subject.limits):
                over = 0 if limit is None else meter.owed[kind] + (cost[kind] - limit) * MINUTE_US
                if limit is not None and cost[kind] > 0 and over > 0:
                    wait = -(-over // limit) + meter.at - now
                    refused = max(refused or (-1, 0, 0), (wait, number, kind), key=lambda each: each[0])
            if subject.max_open is not None and meter.open >= subject.max_open:
                refused = max(refused or (-1, 0, 0), (OPEN_WAIT_US, number, OPEN), key=lambda each: each[0])
        if refused is not None:
            wait, by, kind = refused
            return Outcome(_standings(subjects, meters), "", by, kind, wait), None
        for subject, meter in zip(subjects, meters, strict=True):
            meter.owed = [
                0 if limit is None else owed + units * MINUTE_US
                for owed, limit, units in zip(meter.owed, subject.limits, cost, strict=True)
            ]
            meter.open += 1
        held = Held(subjects, cost.tokens, now, tuple(meter.owed[-1] for meter in meters))
        return Outcome(_standings(subjects, meters), "local"), held

    def settle(self, held: Held, used: int | None, now: int) -> None:
        """End a request: its places are free, and it is charged for what it used.

        Args:
            held: what was reserved.
            used: tokens; None if that is not known.
            now: in microseconds.
        """
        for subject, last in zip(held.subjects, held.last, strict=True):
            meter, limit = self._meter(subject, now), subject.limits[-1]
            meter.open = max(meter.open - 1, 0)
            if limit is None or used is None:
                continue
            change = (used - held.tokens) * MINUTE_US
            if change < 0:
                change = -min(-change, max(last - max(now - held.at, 0) * limit, 0), meter.owed[-1])
            meter.owed[-1] += change

    def _meter(self, subject: Subject, now: int) -> _Meter:
        meter = self._meters.setdefault(subject.name, _Meter(now))
        self._meters.move_to_end(subject.name)
        if len(self._meters) > _MAX_SUBJECTS:
            self._meters.popitem(last=False)
        meter.move_to(now, subject.limits)
        return meter


class Charging(Protocol):
    """Where requests are charged: `router.limits.charges`."""

    def refused_for_us(self, subject: Subject) -> int:
        """Return for how many microseconds a subject's bucket of requests cannot have room yet; 0 if it may have."""

    async def charge(
        self, id_: str, owner: str, cost: Cost, subjects: Sequence[Subject]
    ) -> tuple[Outcome, Held | None]:
        """Charge a request to all of its subjects, or to none; returns what `settle` takes if it was charged here."""

    async def settle(self, id_: str, reference: str, used: int | None, held: Held | None = None) -> None:
        """End a request: its places are free, and it is charged for what it used, if that is known."""


def _standings(subjects: Sequence[Subject], meters: Sequence[_Meter]) -> tuple[Standing, ...]:
    return tuple(
        Standing(
            tuple(
                None if limit is None else max((limit * MINUTE_US - owed) // MINUTE_US, 0)
                for limit, owed in zip(subject.limits, meter.owed, strict=True)
            ),
            tuple(
                None if limit is None else -(-owed // limit)
                for limit, owed in zip(subject.limits, meter.owed, strict=True)
            ),
        )
        for subject, meter in zip(subjects, meters, strict=True)
    )
