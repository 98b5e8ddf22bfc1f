"""The rules in the form in which they are tried: plain rows, made once for a set of rules and a place of the dial.

In: `Rules`, and the values of all features by their place. Out: which rule holds, and which changes are worth trying.
Trying rows of numbers takes a third of the time of the checked models, and a decision tries the rules half a dozen
times to say what would flip it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from policies.decision import Route, Scalar
from policies.rules import FEATURE_FLAGS, FEATURE_LABELS, FEATURE_NAMES, Condition, Rule, Rules

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
_MAX_KNOWN: Final = 64

# By the feature's place in `FEATURE_NAMES`; None = not measured.
Values = Sequence[Scalar | None]
PLACE: Final = {name: place for place, name in enumerate(FEATURE_NAMES)}


class Check(NamedTuple):
    """One condition of a rule.

    Attributes:
        place: of the feature.
        equals: what the value must be; None = a range.
        low: the number is this or more.
        high: the number is less than this.
        bounds: of a graded value: each bound, and over which scale the way to it is measured (None: over what a job
            takes). Empty: labels and whole pictures, always 1 away.
        condition: as it was written.
    """

    place: int
    equals: Scalar | None
    low: float
    high: float
    bounds: tuple[tuple[float, float | None], ...]
    condition: Condition


# A value to try: what it costs to get there, its place in the order of the rules (it settles what costs the same), the
# feature's place, and the value.
Change = tuple[float, int, int, Scalar]


class Program:
    """A set of rules at one place of the dial.

    Attributes:
        rules: at the dial's place.
        rows: per rule its checks.
        routes: per rule.
        multi_hop_threshold: see `Rules.multi_hop_threshold`.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.rows = tuple(tuple(_to_checks(rule)) for rule in rules.rules)
        self.routes: tuple[Route, ...] = tuple(rule.route for rule in rules.rules)
        self.multi_hop_threshold = rules.multi_hop_threshold
        changes = [(order, PLACE[feature], value) for order, (feature, value) in enumerate(_options(rules))]
        names = [FEATURE_NAMES[place] for _, place, _ in changes]
        self._fixed = sorted(
            (_COST[name], *change) for name, change in zip(names, changes, strict=True) if name in _COST
        )
        self._graded = [change for name, change in zip(names, changes, strict=True) if name not in _COST]

    def first_match(self, values: Values, start: int = 0) -> int:
        """Return the index of the first rule, from `start` on, whose conditions all hold; the last always does."""
        rows = self.rows
        for index in range(start, len(rows) - 1):
            for place, equals, low, high, _, _ in rows[index]:
                value = values[place]
                if equals is not None:
                    if value != equals:
                        break
                elif value is None or not low <= value < high:  # type: ignore[operator]
                    break
            else:
                return index
        return len(rows) - 1

    def changes(self, values: Values, estimate_ms: int) -> list[Change]:
        """Return every change of one value that could matter, the smallest first.

        Args:
            values: now.
            estimate_ms: what a job is expected to take.
        """
        graded = [
            (_distance(place, current, wanted, estimate_ms), order, place, wanted)
            for order, place, wanted in self._graded
            if wanted != (current := values[place])
        ]
        return sorted(graded + self._fixed)


def _to_checks(rule: Rule) -> Iterator[Check]:
    for feature, condition in rule.when.items():
        low = -math.inf if condition.at_least is None else condition.at_least
        high = math.inf if condition.below is None else condition.below
        bounds: list[tuple[float, float | None]] = []
        if condition.equals is None and feature not in ("num_images", "num_new_images"):
            for bound in (condition.at_least, condition.below):
                if bound is not None:
                    bounds.append((bound, _scale(feature, bound)))
        yield Check(PLACE[feature], condition.equals, low, high, tuple(bounds), condition)


def _scale(feature: str, bound: float) -> float | None:
    if feature == "deadline_slack_ms":
        return None
    return max(bound, 1.0 - bound) if feature == "multi_hop" else max(bound, 1.0)


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


_MULTI_HOP: Final = PLACE["multi_hop"]
_SLACK: Final = PLACE["deadline_slack_ms"]
_NUM_CHARS: Final = PLACE["num_chars"]


def _distance(place: int, current: Scalar | None, wanted: Scalar, estimate_ms: int) -> float:
    if current is None:
        return _DEADLINE_FROM_NONE
    gap = abs(float(wanted) - float(current))
    if place == _MULTI_HOP:
        return min(0.999, gap)
    if place == _SLACK:
        return min(0.999, gap / max(estimate_ms, 1))
    if place == _NUM_CHARS:
        return min(0.999, gap / max(float(wanted), 1.0))
    return gap


# Of the rules decided by lately, with their dial. The rules are kept with it, so that no others get their identity.
_known: Final[dict[tuple[int, float], tuple[Rules, Program]]] = {}


def program_of(rules: Rules, dial: float) -> Program:
    """Return the rules as they are tried, made once for each place of the dial.

    Args:
        rules: as they are written.
        dial: see `Rules.turned`.
    """
    found = _known.get((id(rules), dial))
    if found is None:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        found = _known[id(rules), dial] = (rules, Program(rules.turned(dial)))
    return found[1]
