"""Third step: the rules. In: a YAML preset. Out: valid `Rules`, or an error with file, line and what is accepted.

Rules are tried from the top; the first whose conditions all hold decides. The last has none, so some rule always does.
"""

import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policies.context import Context
from policies.decision import Arm, EngineName, Route
from policies.yaml_text import YamlError, describe_fault, keys_of, make_fault, read_yaml

# What a condition may be put on, and the words each may equal. `deadline_slack_ms` is the caller's deadline minus what
# a job is expected to take; without a deadline no condition on it holds.
FEATURE_LABELS: Final[dict[str, tuple[str, ...]]] = {
    "language": ("zh", "en", "other", "none"),
    "requested_route": ("auto", "fast", "deep"),
    "requested_engine": ("glm", "owl2"),
}
FEATURE_FLAGS: Final = ("mentions_several_images", "is_courtesy", "is_interactive")
FEATURE_NUMBERS: Final = ("num_images", "num_new_images", "multi_hop", "num_chars", "deadline_slack_ms")
FEATURE_NAMES: Final = (*FEATURE_LABELS, *FEATURE_FLAGS, *FEATURE_NUMBERS)


class RulesError(YamlError):
    """A preset cannot be used. The message names the file, the line and what would be accepted."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Condition(_Strict):
    """What one feature must be: equal to a value, or a number in a range.

    Attributes:
        equals: YAML `is`.
        at_least: the number is this or more.
        below: the number is less than this.
    """

    equals: bool | str | None = Field(default=None, alias="is")
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    below: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _asks_one_thing(self) -> "Condition":
        is_range = self.at_least is not None or self.below is not None
        if (self.equals is not None) == is_range:
            raise make_fault("give either `is`, or `at_least` and/or `below`")
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            raise make_fault("`at_least` must be smaller than `below`")
        return self


class Rule(_Strict):
    """One row: when all conditions hold, this route.

    Attributes:
        name: shown in every decision it makes.
        when: feature name to condition; empty = always.
        route: fast or deep.
        engine: who gives the final answer; absent = glm for fast, owl2 for deep.
        enable_thinking: let GLM think first.
        on_overload: `switch` to the other engine when this one's queue is too old, or `wait` in it. What waits is also
            left alone by quotas, canaries, keys and earlier turns.
        panel: the arms to ask all at once, the final answer's among them; empty = the route's usual branches.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    when: dict[str, Condition] = Field(default_factory=dict)
    route: Route
    engine: EngineName | None = None
    enable_thinking: bool = False
    on_overload: Literal["switch", "wait"] = "switch"
    panel: tuple[Arm, ...] = ()

    @model_validator(mode="after")
    def _panel_is_one(self) -> "Rule":
        if not self.panel:
            return self
        if self.route != "deep":
            raise make_fault("a panel takes as long as a job: `route: deep` is expected with it", "panel")
        if len(set(self.panel)) != len(self.panel) or len(self.panel) < 2:
            raise make_fault("two or three different arms are expected: glm, glm-thinking, owl2", "panel")
        if self.answering_arm not in self.panel:
            raise make_fault(f"`{self.answering_arm}` gives the final answer, so it must be one of the panel", "panel")
        return self

    @model_validator(mode="after")
    def _conditions_fit_their_features(self) -> "Rule":
        for feature, condition in self.when.items():
            if feature not in FEATURE_NAMES:
                raise make_fault(f"is not measured; accepted: {', '.join(FEATURE_NAMES)}", "when", feature)
            labels = FEATURE_LABELS.get(feature)
            if labels is not None and condition.equals not in labels:
                raise make_fault(f"takes `is` with one of: {', '.join(labels)}", "when", feature)
            if feature in FEATURE_FLAGS and not isinstance(condition.equals, bool):
                raise make_fault("takes `is` with true or false", "when", feature)
            if feature in FEATURE_NUMBERS and condition.equals is not None:
                raise make_fault("is a number; it takes `at_least` and/or `below`", "when", feature)
        return self

    @property
    def answering_engine(self) -> EngineName:
        """Who gives the final answer when all is well."""
        return self.engine or ("glm" if self.route == "fast" else "owl2")

    @property
    def answering_arm(self) -> Arm:
        """How the final answer is asked for when all is well."""
        return "glm-thinking" if self.answering_engine == "glm" and self.enable_thinking else self.answering_engine


class QueueLimits(_Strict):
    """How old a queue's oldest request may be before other work is sent elsewhere, seconds; absent = never too old."""

    glm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    owl2: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def of(self, engine: EngineName) -> float | None:
        """Return one engine's limit, seconds."""
        return self.glm if engine == "glm" else self.owl2


class Quotas(_Strict):
    """What share of the requests, 0 to 1, a route may get before unpinned work goes the other way; absent = any."""

    fast: float | None = Field(default=None, ge=0, le=1)
    deep: float | None = Field(default=None, ge=0, le=1)

    def of(self, route: Route) -> float | None:
        """Return one route's share."""
        return self.fast if route == "fast" else self.deep


class Canary(_Strict):
    """A share of the conversations that try another way; those that no caller pinned and no client waits for.

    Attributes:
        share: of the conversations, 0 to 1.
        route: where they go.
        engine: who gives their final answer; absent = the route's own.
        enable_thinking: let GLM think first.
    """

    share: float = Field(ge=0, le=1)
    route: Route
    engine: EngineName | None = None
    enable_thinking: bool = False


class KeyOverrides(_Strict):
    """What is different for the holder of one key.

    Attributes:
        dial: replaces the preset's.
        route: where its unpinned work goes, whatever the rules say.
        quotas: replace the preset's.
    """

    dial: float | None = Field(default=None, ge=0, le=1)
    route: Route | None = None
    quotas: Quotas | None = None


_NO_OVERRIDES: Final = KeyOverrides()


class Rules(_Strict):
    """A whole preset, valid and with a rule for every request.

    Attributes:
        version: of this format.
        name: shown in every decision.
        summary: one line for people.
        assumed_deep_ms: what a job takes while nothing better is known, milliseconds; a deadline is held against it.
        max_queue_age_s: when an engine counts as overloaded.
        dial: 0 = latency, 1 = depth; moves the multi-hop thresholds, see `turned`. 0.5 = as they are written.
        is_sticky: a conversation keeps its route until its set of pictures changes.
        quotas: per route.
        canary: a share of the conversations that try another way.
        keys: overrides by the hash of a key's owner.
        rules: tried from the top.
    """

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    summary: str
    assumed_deep_ms: int = Field(default=30_000, gt=0)
    max_queue_age_s: QueueLimits = QueueLimits()
    dial: float = Field(default=0.5, ge=0, le=1)
    is_sticky: bool = Field(default=False, alias="sticky")
    quotas: Quotas = Quotas()
    canary: Canary | None = None
    keys: dict[str, KeyOverrides] = Field(default_factory=dict)
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _one_rule_always_holds(self) -> "Rules":
        if not self.rules:
            raise make_fault("at least one rule is expected, the last without `when`", "rules")
        names = [rule.name for rule in self.rules]
        for index, rule in enumerate(self.rules):
            is_last = index == len(names) - 1
            if rule.name in names[:index]:
                raise make_fault(f"two rules are named `{rule.name}`; names must differ", "rules", index, "name")
            if not rule.when and not is_last:
                raise make_fault(
                    "without `when` nothing after it is ever tried, so it must be the last rule", "rules", index
                )
            if rule.when and is_last:
                raise make_fault(
                    "the last rule must have no `when`, so that every request is decided", "rules", index, "when"
                )
        return self

    @property
    def multi_hop_threshold(self) -> float | None:
        """The first bound that the multi-hop score is held against."""
        for rule in self.rules:
            if (condition := rule.when.get("multi_hop")) is not None:
                return condition.at_least if condition.at_least is not None else condition.below
        return None

    def overrides_for(self, context: Context) -> KeyOverrides:
        """Return what is different for the caller's key; nothing if it is not named."""
        return self.keys.get(context.owner, _NO_OVERRIDES) if context.owner is not None else _NO_OVERRIDES

    def turned(self, dial: float) -> "Rules":
        """Return the rules with their multi-hop thresholds moved by the dial.

        Towards 0 a threshold t rises on a straight line to 1 (only what is certain goes deep), towards 1 it falls to 0
        (everything that reaches the rule does). Turning up never makes a decision less deep: a bound is moved only
        where crossing it upwards leads to deep, or below it to fast.

        Args:
            dial: 0 to 1; outside, the nearer end.
        """
        dial = min(1.0, max(0.0, dial))
        if dial == 0.5:
            return self
        return self.model_copy(update={"rules": tuple(_turn(rule, dial) for rule in self.rules)})


def _turn(rule: Rule, dial: float) -> Rule:
    condition = rule.when.get("multi_hop")
    if condition is None:
        return rule
    side = "at_least" if rule.route == "deep" else "below"
    bound = getattr(condition, side)
    if bound is None:
        return rule
    moved = bound + (1 - bound) * (1 - 2 * dial) if dial < 0.5 else bound * (2 - 2 * dial)
    turned = condition.model_copy(update={side: round(moved, 4)})
    return rule.model_copy(update={"when": {**rule.when, "multi_hop": turned}})


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that ship, sorted."""
    folder = resources.files("policies").joinpath("presets")
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_preset(name: str) -> Rules:
    """Load a preset that ships with the package.

    Args:
        name: such as "seed", without the file ending.

    Raises:
        RulesError: there is none of that name.
    """
    known = preset_names()
    if name not in known:
        raise RulesError(f"no preset named {name!r}; accepted: {', '.join(known)}, or a path to a .yaml file")
    return _load(resources.files("policies").joinpath("presets", f"{name}.yaml"), f"{name}.yaml")


def load_rules(path: str | Path) -> Rules:
    """Load and validate a preset file as a whole.

    Raises:
        RulesError: the file cannot be read, is no YAML, or is no preset; with every fault found, one a line.
    """
    return _load(Path(path), str(path))


def _load(source: Traversable | Path, label: str) -> Rules:
    try:
        data, lines = read_yaml(source, label)
    except YamlError as error:
        raise RulesError(str(error)) from error
    if not isinstance(data, dict):
        raise RulesError(f"{label}, line 1: a mapping is expected, with the keys {', '.join(keys_of(Rules))}")
    try:
        # YAML has lists where the model is frozen with tuples; nothing else is converted.
        if isinstance(data.get("rules"), list):
            data["rules"] = tuple(data["rules"])
            for rule in data["rules"]:
                if isinstance(rule, dict) and isinstance(rule.get("panel"), list):
                    rule["panel"] = tuple(rule["panel"])
        return Rules.model_validate(data)
    except ValidationError as error:
        faults = (describe_fault(fault, lines, label, _accepted_at) for fault in error.errors())
        raise RulesError("\n".join(faults)) from error


def _accepted_at(parent: tuple[str | int, ...]) -> tuple[str, ...]:
    return keys_of(_model_at(parent))


def _model_at(parent: tuple[str | int, ...]) -> type[_Strict]:
    if not parent:
        return Rules
    if parent[0] in _SECTIONS:
        return _SECTIONS[str(parent[0])]
    if parent[0] == "keys":
        return KeyOverrides if len(parent) == 2 else Quotas
    return Rule if len(parent) == 2 else Condition


_SECTIONS: Final[dict[str, type[_Strict]]] = {"max_queue_age_s": QueueLimits, "quotas": Quotas, "canary": Canary}


class RulesFile:
    """A preset file that may be edited while it is in use: a good edit counts at once, a bad one changes nothing.

    Attributes:
        path: of the file.
        error: why the file as it now stands cannot be used; None while it can.
    """

    def __init__(self, path: str | Path) -> None:
        """Load the file for the first time.

        Raises:
            RulesError: it cannot be used; there is no earlier set to fall back on.
        """
        self.path = Path(path)
        self.error: str | None = None
        self._stamp = self._read_stamp()
        self._rules = load_rules(self.path)

    def current(self) -> Rules:
        """Return the newest good rules. Cheap: one stat per call, and one parse per edit, good or bad."""
        stamp = self._read_stamp()
        if stamp != self._stamp:
            try:
                self._rules = load_rules(self.path)
                self.error = None
            except RulesError as error:
                self.error = str(error)
            self._stamp = stamp
        return self._rules

    def _read_stamp(self) -> tuple[int, int, int] | None:
        """Tell one version of the file from another; editors that replace the file change its inode."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
