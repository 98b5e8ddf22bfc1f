"""Where parts of the router report what happens: one object per process, which counts, or does nothing.

In: calls at a few named points, from one thread. Out: values of `router.telemetry.families`. Counts are added up here
and given to the registry when somebody looks: its own counting takes a lock and some checks each time, for every one of
the dozen numbers of a request. Histograms with their labels are kept, as finding one costs more than observing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, Final

from engines.metrics import OTHER, Bounded, Family, Looked, Registry
from router.telemetry import families
from router.telemetry.ended import Ended, Run

_ENGINES: Final = frozenset({"glm", "owl2"})
_QUEUES: Final = frozenset({"glm", "owl2", "light"})
_ROUTES: Final = frozenset({"fast", "deep"})
_STATES: Final = frozenset({"completed", "failed", "cancelled", "incomplete"})
_CACHES: Final = frozenset({"", "hit", "joined", "miss"})
_WHYS: Final = ("failure", "full", "away", "handed back")
_FROM_ZERO: Final[dict[Family, tuple[Iterable[str], ...]]] = {
    families.LEASES_LOST: (_QUEUES,),
    families.RETRIES: (_QUEUES, _WHYS),
    families.WEBHOOK_ATTEMPTS: (("succeeded", "pending", "failed"),),
    families.REFINED: (("same", "reworded", "contradicted"),),
    families.UNCOUNTED: (),
    # Of refusals the one that an alert asks for by its code.
    families.REFUSALS: (("storage_full",), ("503",)),
}
_BY_NAME: Final = {family.name: family for family in families.OWN}


class Meters:
    """Takes reports and does nothing with them: metrics are off."""

    def decided(self, route: str, engine: str, rule: str) -> None:
        """Note which way a question went."""

    def answered(self, ended: Ended) -> None:
        """Note how a question ended."""

    def looked_up(self, *, is_hit: bool) -> None:
        """Note that a question was looked up in the answer cache."""

    def fetched(self, seconds: float, *, is_good: bool) -> None:
        """Note that a picture was downloaded, or could not be."""

    def took_pictures(self, sizes: list[tuple[int, int]]) -> None:
        """Note the pictures of a request: bytes and pixels of each."""

    def limited(self, whose: str, what: str) -> None:
        """Note that a limit refused a request."""

    def request_began(self) -> None:
        """Note that a request has come."""

    def request_ended(self, path: str, status: int, code: str, seconds: float) -> None:
        """Note how a request was answered.

        Args:
            path: of the route, as it is written in the code; empty for no route.
            status: of the answer; 0 if there was none.
            code: of the error in it; empty without.
            seconds: it took.
        """


UNMETERED: Final = Meters()


class CountingMeters(Meters):
    """Counts.

    Attributes:
        looked: shows what is looked up when somebody asks.
        registry: shows all of it.
    """

    def __init__(self) -> None:
        self.looked = Looked((*families.STORED, *families.SEEN))
        self.registry = Registry(families.OWN, self.looked, self._hand_over)
        self._rule, self._code = Bounded(), Bounded()
        # By name and labels, since the last look.
        self._counted: dict[tuple[str, ...], float] = {}
        self._kept: dict[tuple[str, ...], Callable[[float], None]] = {}
        self._in_flight = 0
        self.registry.gauge(families.IN_FLIGHT).set_function(lambda: self._in_flight)
        # From nothing to one is a rise that Prometheus sees only if it has seen the nothing.
        for family, values in _FROM_ZERO.items():
            for labels in product(*values):
                self._add(family, *labels, by=0)

    def decided(self, route: str, engine: str, rule: str) -> None:
        """Note which way a question went."""
        self._add(families.DECISIONS, _in(_ROUTES, route), _in(_ENGINES, engine), self._rule(rule))

    def answered(self, ended: Ended) -> None:
        """Note how a question ended."""
        route, engine = _in(_ROUTES, ended.route), _in(_ENGINES, ended.engine)
        self._add(families.ANSWERS, route, engine, _in(_STATES, ended.state), _in(_CACHES, ended.cache))
        if ended.cache != "hit" and ended.state in ("completed", "incomplete"):
            self._time(families.LATENCY, ended.took_s, route, engine)
        self._time(families.FIRST_TOKEN, ended.first_token_s, route)
        self._time(families.DRAFT_TO_FINAL, ended.draft_to_final_s)
        self._time(families.MERGE_TIME, ended.merge_s)
        self._time(families.AGREEMENT, ended.agreement)
        if ended.change:
            self._add(families.REFINED, ended.change)
        for run in ended.runs:
            self._ran(run)

    def _ran(self, run: Run) -> None:
        if run.queue:
            queue = _in(_QUEUES, run.queue)
            self._time(families.QUEUE_TIME, run.queue_s, queue)
            self._time(families.RUN_FIRST_TOKEN, run.first_token_s, queue)
            self._time(families.RUN_TIME, run.took_s, queue)
        if run.engine:
            engine = _in(_ENGINES, run.engine)
            self._add(families.PROMPT_TOKENS, engine, by=run.prompt_tokens)
            self._add(families.GENERATION_TOKENS, engine, by=run.completion_tokens)

    def looked_up(self, *, is_hit: bool) -> None:
        """Note that a question was looked up in the answer cache."""
        self._add(families.CACHE_QUERIES)
        if is_hit:
            self._add(families.CACHE_HITS)

    def fetched(self, seconds: float, *, is_good: bool) -> None:
        """Note that a picture was downloaded, or could not be."""
        self._time(families.FETCH_TIME, seconds, "good" if is_good else "failed")

    def took_pictures(self, sizes: list[tuple[int, int]]) -> None:
        """Note the pictures of a request: bytes and pixels of each."""
        self._time(families.PICTURES, len(sizes))
        for num_bytes, num_pixels in sizes:
            self._time(families.PICTURE_BYTES, num_bytes)
            self._time(families.PICTURE_PIXELS, num_pixels)

    def limited(self, whose: str, what: str) -> None:
        """Note that a limit refused a request."""
        self._add(families.LIMITS, whose, what)

    def request_began(self) -> None:
        """Note that a request has come."""
        self._in_flight += 1

    def request_ended(self, path: str, status: int, code: str, seconds: float) -> None:
        """Note how a request was answered."""
        self._in_flight -= 1
        path = path or OTHER
        self._add(families.REQUESTS, path, str(status))
        self._time(families.REQUEST_TIME, seconds, path)
        if code:
            self._add(families.REFUSALS, self._code(code), str(status))

    def add(self, family: Family, *labels: str, by: float = 1.0) -> None:
        """Count what others have counted until now, as the scripts of redis do."""
        self._add(family, *labels, by=by)

    def _add(self, family: Family, *labels: str, by: float = 1.0) -> None:
        key = (family.name, *labels)
        self._counted[key] = self._counted.get(key, 0.0) + by

    def _hand_over(self) -> None:
        counted, self._counted = self._counted, {}
        for (name, *labels), by in counted.items():
            counter: Any = self.registry.counter(_BY_NAME[name])
            (counter.labels(*labels) if labels else counter).inc(by)

    def _time(self, family: Family, value: float | None, *labels: str) -> None:
        if value is None:
            return
        key = (family.name, *labels)
        if (observe := self._kept.get(key)) is None:
            histogram: Any = self.registry.histogram(family)
            observe = self._kept[key] = (histogram.labels(*labels) if labels else histogram).observe
        observe(value)


def _in(known: frozenset[str], value: str) -> str:
    return value if value in known else OTHER
