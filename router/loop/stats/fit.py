"""Weights of the multi-hop score, fitted to an owner's log.

In: `Exchange`s that have both answers, and which one was right. Out: a `Fit`: weights with which the score says how
likely a deeper look helps rather than harms, and what that gains on questions that were kept out of the fit.

Only questions in which the two answers differ in score say anything: won is 1, lost is 0, weighted by how much and by
how many questions each stands for. Logistic regression with weights at or above 0, so that a further cue never lowers
the score, pulled to the weights in use: a cue that the log hardly shows keeps its weight.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from policies.complexity import MAX_WORDS, examine, find_cues
from policies.decide import decide
from policies.multi_hop_weights import LANGUAGES, Scored, Weights, WeightsSet
from policies.rules import Rules
from router.loop.stats.intervals import Interval, Value, mean_interval
from router.loop.stats.records import Exchange, Route, judged

# Of a language with fewer questions that one answer won, or the other, the weights stay.
LEAST_OF_EACH: Final = 15
# How hard the pull is, in questions per unit of weight squared.
_PULL: Final = 2.0
_ROUNDS: Final = 60
_HELD_OUT: Final = 3  # of ten documents


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of it.

    Attributes:
        weights: of both languages.
        fitted: languages whose weights are new; the others had too few questions.
        num_rows: questions that were fitted on, by language.
        num_held_out: questions that the gain is of.
        num_changed: of those, the ones that take another route than with the weights in use.
        gain: in score per question, of routing by the new weights; None if there are too few documents.
    """

    weights: WeightsSet
    fitted: tuple[Scored, ...]
    num_rows: dict[Scored, int]
    num_held_out: int
    num_changed: int
    gain: Interval | None

    @property
    def is_proven(self) -> bool:
        """Whether the new weights are better, for sure."""
        return bool(self.fitted) and self.gain is not None and self.gain.low > 0


@dataclass(frozen=True, slots=True)
class _Row:
    counts: tuple[float, ...]
    is_won: bool
    weight: float


def fit(exchanges: Sequence[Exchange], rules: Rules, weights: WeightsSet, measure: str = "exact") -> Fit:
    """Fit, and measure on three documents in ten.

    Args:
        exchanges: of the log.
        rules: by which the score sends questions.
        weights: in use now.
        measure: a key of `router.loop.stats.metrics.MEASURES`.
    """
    known = [each for each in judged(exchanges) if each.has_both]
    held_out = [each for each in known if _is_held_out(each)]
    found = dict(weights)
    fitted: list[Scored] = []
    num_rows: dict[Scored, int] = {}
    for language in LANGUAGES:
        rows = _rows([each for each in known if not _is_held_out(each)], language, weights[language], measure)
        num_rows[language] = len(rows)
        num_won = sum(row.is_won for row in rows)
        if min(num_won, len(rows) - num_won) >= LEAST_OF_EACH:
            found[language] = _fit(rows, weights[language])
            fitted.append(language)
    values, num_changed = [], 0
    for each in held_out:
        before, after = (_route(each, rules, which) for which in (weights, found))
        gain = 0.0 if before == after else each.gain(measure) * (1 if after == "deep" else -1)
        num_changed += before != after
        values.append(Value(each.group, gain, 1 / each.probability))
    return Fit(found, tuple(fitted), num_rows, len(held_out), num_changed, mean_interval(values))


def _is_held_out(exchange: Exchange) -> bool:
    return zlib.crc32(f"held out {exchange.group}".encode()) % 10 < _HELD_OUT


def _route(exchange: Exchange, rules: Rules, weights: WeightsSet) -> Route:
    scored = examine(exchange.question, exchange.features.language, weights).score
    return decide(replace(exchange.features, multi_hop=scored), rules).route


def _rows(exchanges: Sequence[Exchange], language: Scored, weights: Weights, measure: str) -> list[_Row]:
    rows = []
    for each in exchanges:
        gain = each.gain(measure)
        if each.features.language != language or not gain:
            continue
        num_words, cues = find_cues(each.question, language)
        if num_words:
            length = math.log(min(max(num_words, 1.0), MAX_WORDS[language]))
            counts = (1.0, length, *(min(len(cues[name]), cap) for name, (_, cap) in weights.cues.items()))
            rows.append(_Row(counts, gain > 0, abs(gain) / each.probability))
    # The pull is in questions: weights that stand for those that were not drawn must not outvote it.
    total = sum(row.weight for row in rows)
    return [replace(row, weight=row.weight * len(rows) / total) for row in rows]


def _fit(rows: Sequence[_Row], weights: Weights) -> Weights:
    """Newton steps, one weight at a time; the loss is convex, so the order does not matter."""
    prior = [weights.bias, weights.length, *(weight for weight, _ in weights.cues.values())]
    values = list(prior)
    sums = [sum(count * value for count, value in zip(row.counts, values, strict=True)) for row in rows]
    for _ in range(_ROUNDS):
        furthest = 0.0
        for place, wanted in enumerate(prior):
            pull = _PULL if place else 0.0  # how often deeper looks help is for the log to say
            slope, curve = pull * (values[place] - wanted), pull + 1e-6
            for row, total in zip(rows, sums, strict=True):
                if count := row.counts[place]:
                    share = 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))
                    slope += row.weight * count * (share - row.is_won)
                    curve += row.weight * count * count * max(share * (1 - share), 0.05)
            moved = values[place] - slope / curve
            if place:
                moved = max(0.0, moved)
            step, values[place] = moved - values[place], moved
            sums = [total + step * row.counts[place] for row, total in zip(rows, sums, strict=True)]
            furthest = max(furthest, abs(step))
        if furthest < 1e-4:
            break
    names = zip(weights.cues.items(), values[2:], strict=True)
    return Weights(
        round(values[0], 3), round(values[1], 3), {name: (round(value, 3), cap) for (name, (_, cap)), value in names}
    )
