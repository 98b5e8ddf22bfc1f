"""Third step: the rules. In: a YAML preset. Out: valid `Rules`, or an error with file, line and what is accepted.

Rules are tried from the top; the first whose conditions all hold decides. The last has none, so some rule always does.
"""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from policies.decision import EngineName, Route, Scalar

# What a condition may be put on, and the words each may equal. `deadline_slack_ms` is the caller's deadline minus what
# a job is expected to take; without a deadline no condition on it holds.
FEATURE_LABELS: Final[dict[str, tuple[str, ...]]] = {
    "language": ("zh", "en", "other", "none"),
    "requested_route": ("auto", "fast", "deep"),
    "requested_engine": ("glm", "owl2"),
}
FEATURE_FLAGS: Final = ("mentions_several_images", "is_interactive")
FEATURE_NUMBERS: Final = ("num_images", "num_new_images", "multi_hop", "num_chars", "deadline_slack_ms")
FEATURE_NAMES: Final = (*FEATURE_LABELS, *FEATURE_FLAGS, *FEATURE_NUMBERS)


class RulesError(Exception):
    """A preset cannot be used. The message names the file, the line and what would be accepted."""


_Path = tuple[str | int, ...]


def _fault(message: str, *at: str | int) -> PydanticCustomError:
    """Make a validation error about something inside the model that finds it, so that its own line is named."""
    return PydanticCustomError("rules", "{message}", {"message": message, "at": at})


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
            raise _fault("give either `is`, or `at_least` and/or `below`")
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            raise _fault("`at_least` must be smaller than `below`")
        return self

    def holds(self, value: Scalar | None) -> bool:
        """Whether a measured value meets the condition; None (not measured) meets none."""
        if value is None:
            return False
        if self.equals is not None:
            return value == self.equals
        assert isinstance(value, int | float)
        return (self.at_least is None or value >= self.at_least) and (self.below is None or value < self.below)


class Rule(_Strict):
    """One row: when all conditions hold, this route.

    Attributes:
        name: shown in every decision it makes.
        when: feature name to condition; empty = always.
        route: fast or deep.
        engine: who gives the final answer; absent = glm for fast, owl2 for deep.
        enable_thinking: let GLM think first.
        on_overload: `switch` to the other engine when this one's queue is too old, or `wait` in it.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    when: dict[str, Condition] = Field(default_factory=dict)
    route: Route
    engine: EngineName | None = None
    enable_thinking: bool = False
    on_overload: Literal["switch", "wait"] = "switch"

    @model_validator(mode="after")
    def _conditions_fit_their_features(self) -> "Rule":
        for feature, condition in self.when.items():
            if feature not in FEATURE_NAMES:
                raise _fault(f"is not measured; accepted: {', '.join(FEATURE_NAMES)}", "when", feature)
            labels = FEATURE_LABELS.get(feature)
            if labels is not None and condition.equals not in labels:
                raise _fault(f"takes `is` with one of: {', '.join(labels)}", "when", feature)
            if feature in FEATURE_FLAGS and not isinstance(condition.equals, bool):
                raise _fault("takes `is` with true or false", "when", feature)
            if feature in FEATURE_NUMBERS and condition.equals is not None:
                raise _fault("is a number; it takes `at_least` and/or `below`", "when", feature)
        return self

    @property
    def answering_engine(self) -> EngineName:
        """Who gives the final answer when all is well."""
        return self.engine or ("glm" if self.route == "fast" else "owl2")


class QueueLimits(_Strict):
    """How old a queue's oldest request may be before other work is sent elsewhere, seconds; absent = never too old."""

    glm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    owl2: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def of(self, engine: EngineName) -> float | None:
        """Return one engine's limit, seconds."""
        return self.glm if engine == "glm" else self.owl2


class Rules(_Strict):
    """A whole preset, valid and with a rule for every request.

    Attributes:
        version: of this format.
        name: shown in every decision.
        summary: one line for people.
        assumed_deep_ms: what a job takes while nothing better is known, milliseconds; a deadline is held against it.
        max_queue_age_s: when an engine counts as overloaded.
        rules: tried from the top.
    """

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    summary: str
    assumed_deep_ms: int = Field(default=30_000, gt=0)
    max_queue_age_s: QueueLimits = QueueLimits()
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _one_rule_always_holds(self) -> "Rules":
        if not self.rules:
            raise _fault("at least one rule is expected, the last without `when`", "rules")
        names = [rule.name for rule in self.rules]
        for index, rule in enumerate(self.rules):
            is_last = index == len(names) - 1
            if rule.name in names[:index]:
                raise _fault(f"two rules are named `{rule.name}`; names must differ", "rules", index, "name")
            if not rule.when and not is_last:
                raise _fault(
                    "without `when` nothing after it is ever tried, so it must be the last rule", "rules", index
                )
            if rule.when and is_last:
                raise _fault(
                    "the last rule must have no `when`, so that every request is decided", "rules", index, "when"
                )
        return self


_ACCEPTED_KEYS: Final = {
    "preset": ("version", "name", "summary", "assumed_deep_ms", "max_queue_age_s", "rules"),
    "rule": ("name", "when", "route", "engine", "enable_thinking", "on_overload"),
    "condition": ("is", "at_least", "below"),
    "queue": ("glm", "owl2"),
}


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
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(f"{label}: cannot be read ({error}); a UTF-8 YAML file is expected") from error
    lines: dict[_Path, int] = {}
    try:
        data = _parse(text, lines, label)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise RulesError(f"{label}, line {line}: {why}; valid YAML is expected") from error
    except RecursionError as error:
        raise RulesError(f"{label}, line 1: nested too deeply; a preset has four levels") from error
    if not isinstance(data, dict):
        raise RulesError(f"{label}, line 1: a mapping is expected, with the keys {', '.join(_ACCEPTED_KEYS['preset'])}")
    try:
        # YAML has lists where the model is frozen with tuples; nothing else is converted.
        if isinstance(data.get("rules"), list):
            data["rules"] = tuple(data["rules"])
        return Rules.model_validate(data)
    except ValidationError as error:
        raise RulesError("\n".join(_describe(fault, lines, label) for fault in error.errors())) from error


def _parse(text: str, lines: dict[_Path, int], label: str) -> Any:
    """Read one YAML document and note in `lines` where everything in it stands."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        _walk(node, (), lines, label)
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _walk(node: yaml.Node | None, path: _Path, lines: dict[_Path, int], label: str) -> None:
    """Note the line of every key and item; refuse keys given twice and aliases (a recursive one would never end)."""
    if node is None:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise RulesError(f"{label}, line {line}: `{name}` is given twice; once is expected")
            if value.start_mark.index < key.start_mark.index:
                raise RulesError(f"{label}, line {line}: aliases (*name) are not accepted; write the value out")
            seen.add(name)
            lines[(*path, name)] = line
            _walk(value, (*path, name), lines, label)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            if item.start_mark.index <= node.start_mark.index:
                raise RulesError(
                    f"{label}, line {node.start_mark.line + 1}: aliases (*name) are not accepted; write the value out"
                )
            _walk(item, (*path, index), lines, label)


def _describe(fault: Any, lines: dict[_Path, int], label: str) -> str:
    inside: _Path = fault["ctx"]["at"] if fault["type"] == "rules" else ()
    # pydantic adds the branch of a union to the path; the file has no such key.
    location: _Path = (*(part for part in fault["loc"] if part not in ("bool", "str")), *inside)
    known = location
    while known and known not in lines:
        known = known[:-1]
    where = ".".join(str(part) for part in location) or "the preset"
    message = str(fault["msg"])
    if fault["type"] == "extra_forbidden":
        message = f"not a known key; accepted: {', '.join(_ACCEPTED_KEYS[_kind(location[:-1])])}"
    elif fault["type"] == "missing":
        message = "is missing"
    elif fault["type"] != "rules" and not isinstance(fault["input"], dict | list | tuple):
        message = f"{message}, not {fault['input']!r}"
    return f"{label}, line {lines.get(known, 1)}: {where}: {message}"


def _kind(parent: _Path) -> str:
    if not parent:
        return "preset"
    if parent[0] == "max_queue_age_s":
        return "queue"
    return "rule" if len(parent) == 2 else "condition"
