"""Part of explaining a decision: the smallest change of one value after which the rules would choose the other route.

In: the rules, the measured values, and which rule held. Out: that change, or none.
"""

from policies import sentences
from policies.decision import Flip, Route, Scalar
from policies.program import Program, Values
from policies.rules import FEATURE_NAMES


def find_flip(index: int, program: Program, values: Values, deadline_ms: int | None, estimate_ms: int) -> Flip | None:
    """Try every value that could matter, the smallest change first, and return the first that flips the route.

    Args:
        index: of the rule that held.
        program: the rules at the dial's place.
        values: of all features.
        deadline_ms: as the caller gave it.
        estimate_ms: what a job is expected to take.
    """
    route = program.routes[index]
    changed = list(values)
    for _, _, place, wanted in program.changes(values, estimate_ms):
        current = values[place]
        if wanted == current:
            continue
        changed[place] = wanted
        other = program.routes[program.first_match(changed)]
        if other != route:
            return _describe(FEATURE_NAMES[place], current, wanted, other, deadline_ms, estimate_ms)
        changed[place] = current
    return None


def _describe(
    feature: str, current: Scalar | None, wanted: Scalar, route: Route, deadline_ms: int | None, estimate_ms: int
) -> Flip:
    if feature == "deadline_slack_ms":
        feature, current, wanted = "deadline_ms", deadline_ms, max(0, int(wanted) + estimate_ms)
    return Flip.of(feature, current, wanted, route, sentences.change(feature, current, wanted, route))
