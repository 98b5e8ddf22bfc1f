"""What a process measures, as data: one `Family` per metric, and the collectors of a process made from them.

In: families, and values as they come. Out: the text that Prometheus reads. Every process, and every application of a
test, has a registry of its own; there is no global one and no directory shared by processes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

# A second series for each counter and histogram, which says when it began: Prometheus sees that by itself.
disable_created_metrics()

# Seconds: from what a cached answer takes to what a job waits at worst.
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
# Seconds: of work on one picture, or one step of a model.
SHORT: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OTHER: Final = "other"
# At most so many names of rules, or codes of errors: rules may be edited for as long as a process lives.
_MAX_VALUES: Final = 200
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: as Prometheus shows it, with its unit; a counter's ends with ``_total``.
        kind: of its values.
        help: one sentence; also the row of the docs page.
        labels: names of its labels. Their values are words of the product, never what a client sent.
        buckets: upper bounds, of a histogram.
        over: how the values of several processes become one: each has its own part (``sum``), each shows what all of
            them share or the fullest counts (``max``), or one that is down does (``min``).
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    over: Literal["sum", "max", "min"] = "sum"


class Bounded:
    """Lets at most so many different values of a label through; the rest are ``other``.

    Args:
        most: values.
    """

    def __init__(self, most: int = _MAX_VALUES) -> None:
        self._most = most
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value, or ``other``."""
        if value not in self._seen:
            if len(self._seen) >= self._most or not _WORD.fullmatch(value):
                return OTHER
            self._seen.add(value)
        return value


# By name of a family: its values, each with those of its labels.
Values = Mapping[str, Iterable[tuple[tuple[str, ...], float]]]


class Looked:
    """What is looked up when somebody asks: a collector of values that are there, or are not.

    Args:
        families: gauges, and counters that somebody else counts.

    Attributes:
        values: of the last look; a family without any is not shown.
    """

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = tuple(families)
        self.values: Values = {}

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield what is there."""
        for family in self._families:
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            shown = kind(family.name, family.help, labels=family.labels)
            for labels, value in self.values.get(family.name, ()):
                shown.add_metric(labels, value)
            if shown.samples:
                yield shown


class _First:
    """Shows nothing; is called before everything that is registered after it."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def collect(self) -> tuple[()]:
        """Call it."""
        self._call()
        return ()


class Registry:
    """The collectors of one process, by the names of their families.

    Args:
        families: what it counts and times as it happens.
        looked: what is looked up when somebody asks.
        first: called when somebody asks, before anything is read.
    """

    def __init__(
        self, families: Iterable[Family], looked: Looked | None = None, first: Callable[[], None] | None = None
    ) -> None:
        self.prometheus = CollectorRegistry(auto_describe=False)
        if first is not None:
            self.prometheus.register(_First(first))
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        for family in families:
            self._made[family.name] = self._make(family)
        if looked is not None:
            self.prometheus.register(looked)
        ProcessCollector(registry=self.prometheus)

    def _make(self, family: Family) -> Counter | Gauge | Histogram:
        name, text, labels = family.name, family.help, family.labels
        if family.kind == "histogram":
            return Histogram(name, text, labels, buckets=family.buckets or SECONDS, registry=self.prometheus)
        kind = Counter if family.kind == "counter" else Gauge
        return kind(name, text, labels, registry=self.prometheus)

    def counter(self, family: Family) -> Counter:
        """Return the collector of a counter."""
        made = self._made[family.name]
        assert isinstance(made, Counter)
        return made

    def gauge(self, family: Family) -> Gauge:
        """Return the collector of a gauge."""
        made = self._made[family.name]
        assert isinstance(made, Gauge)
        return made

    def histogram(self, family: Family) -> Histogram:
        """Return the collector of a histogram."""
        made = self._made[family.name]
        assert isinstance(made, Histogram)
        return made

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Return what Prometheus reads, and its content type.

        Args:
            accept: the header of the request: Prometheus asks for OpenMetrics, people get the plain text.
        """
        encode, content_type = choose_encoder(accept)
        text: bytes = encode(self.prometheus)
        return text, str(content_type)
