"""Measure the policy on labelled questions. In: rows in the shape of the evaluation files. Out: numbers per source.

Ranks are judged inside one source and then averaged: a pooled number would reward telling the sources apart. Everything
is seeded, so that the same rows give the same table.
"""

import bisect
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from policies.complexity import score
from policies.language import detect
from policies.pictures import find_several_pictures

NUM_LENGTH_BINS: Final = 5
_BOOTSTRAP_ROUNDS: Final = 200
_SEED: Final = 0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HopsResult:
    """How well the multi-hop score ranks one source's questions, or the plain mean over several sources.

    Attributes:
        source: name of the source, or "mean".
        language: en or zh.
        kind: `label_kind` of the rows: structural or category.
        num_rows: simple and multi-hop together.
        auroc: probability that a multi-hop question outranks a simple one; nan where a class is missing.
        low: lower end of the 95% interval, from resampling whole groups of rows.
        high: its upper end.
        length_auroc: the same for the number of characters alone.
        controlled_auroc: AUROC among questions of like length (five bins), pairs pooled; nan without such pairs.
        recall: share of multi-hop questions at or over the threshold.
        false_alarms: share of simple questions there.
        microseconds: median time of scoring one text.
    """

    source: str
    language: str
    kind: str
    num_rows: int
    auroc: float
    low: float
    high: float
    length_auroc: float
    controlled_auroc: float
    recall: float
    false_alarms: float
    microseconds: float


@dataclass(frozen=True, slots=True)
class RateResult:
    """How often one class of one source is told right.

    Attributes:
        task: language or several_pictures.
        source: name of the source, or "all".
        label: what the rows are (zh, en, other, mixed; several, one).
        detail: what further tells the rows apart, such as the length in words; may be empty.
        num_rows: how many.
        num_right: of them told right. For label `one` the rest are false alarms.
        microseconds: median time of one text.
    """

    task: Literal["language", "several_pictures"]
    source: str
    label: str
    detail: str
    num_rows: int
    num_right: int
    microseconds: float

    @property
    def rate(self) -> float:
        """Share told right."""
        return self.num_right / self.num_rows if self.num_rows else math.nan


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the probability that a positive outranks a negative, a tie counting half; nan if either is empty."""
    if not positives or not negatives:
        return math.nan
    ordered = sorted(negatives)
    wins = sum(bisect.bisect_left(ordered, value) + bisect.bisect_right(ordered, value) for value in positives)
    return wins / (2 * len(positives) * len(negatives))


def length_controlled_auroc(lengths: Sequence[int], scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Return the AUROC over pairs of like length: five bins holding equally many texts, all their pairs pooled.

    Args:
        lengths: of the texts, in characters.
        scores: of the texts.
        labels: True = multi-hop.

    Returns:
        nan where no bin holds both classes.
    """
    ordered = sorted(lengths)
    edges = [ordered[len(ordered) * index // NUM_LENGTH_BINS] for index in range(1, NUM_LENGTH_BINS)] if ordered else []
    bins: dict[int, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for length, value, label in zip(lengths, scores, labels, strict=True):
        bins[bisect.bisect_right(edges, length)][label].append(value)
    pairs = [
        (auroc(positive, negative), len(positive) * len(negative))
        for negative, positive in bins.values()
        if positive and negative
    ]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else math.nan


def bootstrap_interval(groups: Sequence[str], scores: Sequence[float], labels: Sequence[bool]) -> tuple[float, float]:
    """Return the 95% interval of the AUROC, resampling groups: rows of one image are not independent."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    names = list(members)
    generator = random.Random(_SEED)  # noqa: S311 - a seeded resample, nothing secret
    values = []
    for _ in range(_BOOTSTRAP_ROUNDS):
        drawn = [index for name in generator.choices(names, k=len(names)) for index in members[name]]
        value = auroc([scores[i] for i in drawn if labels[i]], [scores[i] for i in drawn if not labels[i]])
        if not math.isnan(value):
            values.append(value)
    if not values:
        return math.nan, math.nan
    values.sort()
    return values[int(0.025 * (len(values) - 1))], values[math.ceil(0.975 * (len(values) - 1))]


def evaluate_hops(
    rows: Iterable[Row], threshold: float, scorer: Callable[[str, Any], float] = score
) -> list[HopsResult]:
    """Measure the multi-hop score per source, and its plain mean over the sources of one language and label kind.

    Args:
        rows: with `label_hops`; borderline rows have no right answer and are left out.
        threshold: the shipped one.
        scorer: what is measured; text and language in, a number out.
    """
    parts: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["label_hops"] in ("simple", "multi_hop"):
            parts[row["language"], row.get("label_kind") or "structural", _family(row)].append(row)
    results: list[HopsResult] = []
    means: dict[tuple[str, str], list[HopsResult]] = defaultdict(list)
    for (language, kind, source), part in sorted(parts.items()):
        scores, microseconds = _timed(lambda row: scorer(row["text"], row["language"]), part)
        labels = [row["label_hops"] == "multi_hop" for row in part]
        lengths = [len(row["text"]) for row in part]
        chained = [value for value, label in zip(scores, labels, strict=True) if label]
        simple = [value for value, label in zip(scores, labels, strict=True) if not label]
        low, high = bootstrap_interval([str(row.get("group") or row["id"]) for row in part], scores, labels)
        result = HopsResult(
            source=source,
            language=language,
            kind=kind,
            num_rows=len(part),
            auroc=auroc(chained, simple),
            low=low,
            high=high,
            length_auroc=auroc(
                [length for length, label in zip(lengths, labels, strict=True) if label],
                [length for length, label in zip(lengths, labels, strict=True) if not label],
            ),
            controlled_auroc=length_controlled_auroc(lengths, scores, labels),
            recall=_share(chained, threshold),
            false_alarms=_share(simple, threshold),
            microseconds=microseconds,
        )
        results.append(result)
        means[language, kind].append(result)
    return results + [_mean(language, kind, part) for (language, kind), part in sorted(means.items())]


def evaluate_language(rows: Iterable[Row]) -> list[RateResult]:
    """Measure the language per label and length, 1-2 words apart; of mixed text the matrix language is right."""
    parts: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("length_words") is not None:
            length = "1-2 words" if row["length_words"] == "1-2" else "3 words and more"
            parts[row["language"], length, str(row["source"])].append(row)
            parts[row["language"], length, "all"].append(row)
    results = []
    for (label, detail, source), part in sorted(parts.items()):
        found, microseconds = _timed(lambda row: detect(row["text"]), part)
        right = sum(
            language == (row.get("matrix") or row["language"]) for language, row in zip(found, part, strict=True)
        )
        results.append(RateResult("language", source, label, detail, len(part), right, microseconds))
    return results


def evaluate_pictures(rows: Iterable[Row]) -> list[RateResult]:
    """Measure the wording for several pictures, per source and language."""
    parts: dict[tuple[str, str, bool], list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("label_multi_image") is not None:
            parts[row["language"], str(row["source"]), bool(row["label_multi_image"])].append(row)
            parts[row["language"], "all", bool(row["label_multi_image"])].append(row)
    results = []
    for (language, source, is_several), part in sorted(parts.items()):
        found, microseconds = _timed(lambda row: bool(find_several_pictures(row["text"])), part)
        right = sum(value == is_several for value in found)
        label = "several" if is_several else "one"
        results.append(RateResult("several_pictures", source, label, language, len(part), right, microseconds))
    return results


def _family(row: Row) -> str:
    """Name the source; the category source is one whose parts hold one class each."""
    source = str(row["source"])
    return source.split("_")[0] if row.get("label_kind") == "category" else source


def _mean(language: str, kind: str, parts: list[HopsResult]) -> HopsResult:
    def mean(name: str) -> float:
        values = [value for part in parts if not math.isnan(value := float(getattr(part, name)))]
        return sum(values) / len(values) if values else math.nan

    return HopsResult(
        source="mean",
        language=language,
        kind=kind,
        num_rows=sum(part.num_rows for part in parts),
        auroc=mean("auroc"),
        low=math.nan,
        high=math.nan,
        length_auroc=mean("length_auroc"),
        controlled_auroc=mean("controlled_auroc"),
        recall=mean("recall"),
        false_alarms=mean("false_alarms"),
        microseconds=mean("microseconds"),
    )


def _share(scores: Sequence[float], threshold: float) -> float:
    return sum(value >= threshold for value in scores) / len(scores) if scores else math.nan


def _timed(work: Callable[[Row], Any], rows: Sequence[Row]) -> tuple[list[Any], float]:
    """Return the results and the median time of one, microseconds."""
    results, times = [], []
    for row in rows:
        start = time.perf_counter_ns()
        results.append(work(row))
        times.append(time.perf_counter_ns() - start)
    return results, sorted(times)[len(times) // 2] / 1_000
