"""The nouns at the end of the policy: what is decided, why, and the health it was decided under.

In: nothing. Out: frozen types that the router shows in headers, the `hybrid` field and `glowl explain`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from policies.text import Text

Route = Literal["fast", "deep"]
EngineName = Literal["glm", "owl2"]
# One way to ask an engine: GLM as it is, GLM thinking first, Owl2.
Arm = Literal["glm", "glm-thinking", "owl2"]
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Reason:
    """One measured value that decided, or would have.

    Attributes:
        feature: name of the feature.
        value: what was measured.
        threshold: what it was held against; None where there is none.
        text: the same as an English sentence.
        text_zh: the same in Chinese.
    """

    feature: str
    value: Scalar
    threshold: Scalar | None
    text: str
    text_zh: str

    @classmethod
    def of(cls, feature: str, value: Scalar, threshold: Scalar | None, text: Text) -> "Reason":
        """Make one from a sentence in both languages."""
        return cls(feature, value, threshold, text.en, text.zh)


@dataclass(frozen=True, slots=True)
class Flip:
    """The smallest change of one value after which the request would go the other way.

    Attributes:
        feature: name of the feature, or of the input outside the question (bucket, image_keys).
        current: its value now; None = not given.
        wanted: the nearest value that changes the route.
        route: the route then.
        text: the same as an English sentence.
        text_zh: the same in Chinese.
    """

    feature: str
    current: Scalar | None
    wanted: Scalar
    route: Route
    text: str
    text_zh: str

    @classmethod
    def of(cls, feature: str, current: Scalar | None, wanted: Scalar, route: Route, text: Text) -> "Flip":
        """Make one from a sentence in both languages."""
        return cls(feature, current, wanted, route, text.en, text.zh)


@dataclass(frozen=True, slots=True)
class Decision:
    """Which way a request goes, and why.

    Attributes:
        route: fast (answered now) or deep (a job).
        engine: who gives the final answer.
        rule: name of the rule that held.
        reasons: the values that made it hold; empty for a rule without conditions.
        degraded: what is not as the rule wanted it, as English sentences; empty when all is well.
        margin: 0 to 1, how far the nearest measured value is from changing the route; 1 = only another question would.
        preset: name of the rule set.
        enable_thinking: GLM is to think before it answers.
        nearest: the value that `margin` speaks of; None where nothing graded is near.
        degraded_zh: `degraded` in Chinese, sentence by sentence.
        panel: the arms that are all asked, the final answer's among them; empty = the route's usual branches.
        flip: the smallest change that would send the request the other way, engines' health aside; None = none would,
            or health has sent it there.
        dial: where between latency (0) and depth (1) the thresholds stood; 0.5 = as the preset writes them.
        multi_hop_threshold: what the multi-hop score was held against; None where no rule reads it.
        overloaded: the engine that was to answer and has too much to do, so that the other one does; None = no such.
    """

    route: Route
    engine: EngineName
    rule: str
    reasons: tuple[Reason, ...]
    degraded: tuple[str, ...]
    margin: float
    preset: str
    enable_thinking: bool = False
    nearest: Reason | None = None
    degraded_zh: tuple[str, ...] = ()
    panel: tuple[Arm, ...] = ()
    flip: Flip | None = None
    dial: float = 0.5
    multi_hop_threshold: float | None = None
    overloaded: EngineName | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as plain JSON values: numbers, strings, booleans, lists and objects."""
        plain = _to_plain(self, _DECISION_FIELDS)
        for name in ("degraded", "degraded_zh", "panel"):
            plain[name] = list(plain[name])
        plain["reasons"] = [_to_plain(reason, _REASON_FIELDS) for reason in self.reasons]
        plain["nearest"] = None if self.nearest is None else _to_plain(self.nearest, _REASON_FIELDS)
        plain["flip"] = None if self.flip is None else _to_plain(self.flip, _FLIP_FIELDS)
        return plain


_REASON_FIELDS = tuple(each.name for each in fields(Reason))
_FLIP_FIELDS = tuple(each.name for each in fields(Flip))
_DECISION_FIELDS = tuple(each.name for each in fields(Decision))


def _to_plain(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    """Write a flat dataclass as a dict; `dataclasses.asdict`, which copies all it finds, takes ten times as long."""
    return {name: getattr(value, name) for name in names}


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """One engine, as its last health check saw it.

    Attributes:
        is_up: it answers.
        queue_age_s: how long the oldest waiting request has waited, seconds; 0 = nothing waits, or it is not known.
        was_overloaded: the queue was over the preset's limit and has not come down to half of it since.
        can_take_over: it could answer this request in place of the other engine, were that one overloaded.
    """

    is_up: bool = True
    queue_age_s: float = 0.0
    was_overloaded: bool = False
    can_take_over: bool = True


@dataclass(frozen=True, slots=True)
class Health:
    """The engines' state when a request is decided.

    Attributes:
        engines: by name; a missing engine counts as up and idle.
        estimated_deep_ms: what a job is expected to take, queue included, milliseconds; None = the preset's guess.
    """

    engines: Mapping[str, EngineHealth] = field(default_factory=dict)
    estimated_deep_ms: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known as plain JSON values."""
        return {
            "engines": {name: asdict(state) for name, state in self.engines.items()},
            "estimated_deep_ms": self.estimated_deep_ms,
        }

    def of(self, engine: str) -> EngineHealth:
        """Return one engine's health."""
        return self.engines.get(engine, _HEALTHY)


_HEALTHY = EngineHealth()
