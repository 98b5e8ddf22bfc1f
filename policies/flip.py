"""Part of explaining a decision: the smallest change of one value after which the rules would choose the other route.

In: the rules, the measured values, and which rule held. Out: that change, or none.
"""

import math
from collections.abc import Iterator
from operator import itemgetter
from typing import Final

from policies import sentences
from policies.decision import Flip, Route, Scalar
from policies.rules import FEATURE_FLAGS, FEATURE_LABELS, Rules

# How much each change asks of a person, in steps: a graded value costs its distance (below 1), a picture one step,
# other words two, another language three, saying that one waits four, a request field five or six, courtesy seven.
_COST: Final = {
    "mentions_several_images": 2.0,
    "language": 3.0,
    "is_interactive": 4.0,
    "requested_route": 5.0,
    "requested_engine": 6.0,
    "is_courtesy": 7.0,
}
_DEADLINE_FROM_NONE: Final = 4.5
_GRADED: Final = 4  # decimals of a score
_MAX_KNOWN: Final = 16
_by_cost: Final = itemgetter(0)

_Values = dict[str, Scalar | None]


def find_flip(index: int, rules: Rules, values: _Values, deadline_ms: int | None, estimate_ms: int) -> Flip | None:
    """Try every value that could matter, the smallest change first, and return the first that flips the route.

    Args:
        index: of the rule that held.
        rules: at the dial's place.
        values: of all features, by name.
        deadline_ms: as the caller gave it.
        estimate_ms: what a job is expected to take.
    """
    route = rules.rules[index].route
    candidates = [
        (_cost(feature, current, option, estimate_ms), feature, option)
        for feature, option in _options_of(rules)
        if option != (current := values[feature])
    ]
    candidates.sort(key=_by_cost)
    changed = dict(values)
    for _, feature, value in candidates:
        changed[feature] = value
        other = rules.rules[rules.first_match(changed)].route
        if other != route:
            return _describe(feature, values[feature], value, other, deadline_ms, estimate_ms)
        changed[feature] = values[feature]
    return None


# Of the rules decided by lately. They are kept with what was made of them, so that no other gets their identity.
_known: Final[dict[int, tuple[Rules, tuple[tuple[str, Scalar], ...]]]] = {}


def _options_of(rules: Rules) -> tuple[tuple[str, Scalar], ...]:
    """Return what `_options` yields, made once for each set of rules."""
    found = _known.get(id(rules))
    if found is None:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        found = _known[id(rules)] = (rules, tuple(_options(rules)))
    return found[1]


def _options(rules: Rules) -> Iterator[tuple[str, Scalar]]:
    """Yield (feature, value) for both sides of every bound and for every label that a rule reads."""
    seen: set[tuple[str, Scalar]] = set()
    for rule in rules.rules:
        for feature, condition in rule.when.items():
            if feature in FEATURE_LABELS:
                options: list[Scalar] = [label for label in FEATURE_LABELS[feature] if label != "none"]
            elif feature in FEATURE_FLAGS:
                options = [True, False]
            else:
                options = []
                for bound in (condition.at_least, condition.below):
                    if bound is not None:
                        options += [_just_at(feature, bound), _just_under(feature, bound)]
            for option in options:
                if (feature, option) not in seen:
                    seen.add((feature, option))
                    yield feature, option


def _just_at(feature: str, bound: float) -> Scalar:
    return bound if feature == "multi_hop" else math.ceil(bound)


def _just_under(feature: str, bound: float) -> Scalar:
    if feature == "multi_hop":
        return max(0.0, round(bound - 10**-_GRADED, _GRADED))
    under = math.ceil(bound) - 1
    return under if feature == "deadline_slack_ms" else max(0, under)


def _cost(feature: str, current: Scalar | None, option: Scalar, estimate_ms: int) -> float:
    if feature in _COST:
        return _COST[feature]
    if current is None:
        return _DEADLINE_FROM_NONE
    gap = abs(float(option) - float(current))
    if feature == "multi_hop":
        return min(0.999, gap)
    if feature == "deadline_slack_ms":
        return min(0.999, gap / max(estimate_ms, 1))
    if feature == "num_chars":
        return min(0.999, gap / max(float(option), 1.0))
    return gap


def _describe(
    feature: str, current: Scalar | None, wanted: Scalar, route: Route, deadline_ms: int | None, estimate_ms: int
) -> Flip:
    if feature == "deadline_slack_ms":
        feature, current, wanted = "deadline_ms", deadline_ms, max(0, int(wanted) + estimate_ms)
    return Flip.of(feature, current, wanted, route, sentences.change(feature, current, wanted, route))
