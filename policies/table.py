"""Expected routes as a table that people write. In: a YAML file and rules. Out: per case, what came and what should.

Such a file looks like this; `preset`, a name or a file beside this one, may be left out:

    preset: seed
    cases:
      - {text: "图里有几只猫？", images: 1, route: fast, rule: chinese}
      - {text: "What is this?", images: 1, service_tier: priority, route: fast}
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policies.context import Context
from policies.decide import decide
from policies.decision import Decision, EngineHealth, EngineName, Health, Route
from policies.features import Hints, Question, RequestedRoute, measure
from policies.rules import Rules
from policies.yaml_text import YamlError, describe_fault, keys_of, make_fault, read_yaml

_EXPECTED: Final = ("route", "engine", "rule", "enable_thinking")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Case(_Strict):
    """One question and what should become of it.

    Attributes:
        text: the question.
        images: how many different pictures come with it.
        history: earlier user texts, oldest first.
        history_images: how many further pictures came with those.
        ask_route: `hybrid.route`.
        ask_engine: the engine that `model` names.
        service_tier: as in the request.
        deadline_ms: `hybrid.deadline_ms`.
        key: the owner of the caller's key, as the rules' `keys` name it.
        down: engines that are down.
        route: expected.
        engine: expected.
        rule: expected.
        enable_thinking: expected.
    """

    text: str
    images: int = Field(default=0, ge=0, le=64)
    history: tuple[str, ...] = ()
    history_images: int = Field(default=0, ge=0, le=64)
    ask_route: RequestedRoute = "auto"
    ask_engine: EngineName | None = None
    service_tier: str | None = None
    deadline_ms: int | None = Field(default=None, ge=0)
    key: str | None = None
    down: tuple[EngineName, ...] = ()
    route: Route | None = None
    engine: EngineName | None = None
    rule: str | None = None
    enable_thinking: bool | None = None

    @model_validator(mode="after")
    def _expects_something(self) -> "Case":
        if all(getattr(self, name) is None for name in _EXPECTED):
            raise make_fault(f"nothing is expected of it; give one or more of {', '.join(_EXPECTED)}")
        return self


class Table(_Strict):
    """All cases of a file.

    Attributes:
        preset: what they are held against, a name or a path; None = the caller says.
        cases: in the order of the file.
    """

    preset: str | None = None
    cases: tuple[Case, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case.

    Attributes:
        case: the case.
        decision: what was decided.
        differences: "route: deep, expected fast"; empty = as expected.
    """

    case: Case
    decision: Decision
    differences: tuple[str, ...]


def load_table(path: str | Path) -> Table:
    """Load and validate a table as a whole.

    Raises:
        YamlError: the file cannot be read or is no table; with every fault found, one a line.
    """
    label = str(path)
    data, lines = read_yaml(Path(path), label)
    if not isinstance(data, dict):
        raise YamlError(f"{label}, line 1: a mapping is expected, with the keys preset and cases")
    try:
        return Table.model_validate(_with_tuples(data))
    except ValidationError as error:
        faults = (describe_fault(fault, lines, label, _accepted_at) for fault in error.errors())
        raise YamlError("\n".join(faults)) from error


def run_table(table: Table, rules: Rules) -> list[Outcome]:
    """Decide every case with the given rules."""
    return [_run(case, rules) for case in table.cases]


def _run(case: Case, rules: Rules) -> Outcome:
    question = Question(
        case.text,
        history=case.history,
        image_keys=tuple(f"new-{number}" for number in range(case.images)),
        history_image_keys=tuple(f"old-{number}" for number in range(case.history_images)),
    )
    hints = Hints(case.ask_route, case.ask_engine, case.service_tier, case.deadline_ms)
    health = Health({name: EngineHealth(is_up=False) for name in case.down})
    decision = decide(measure(question, hints), rules, health, Context(owner=case.key))
    differences = tuple(
        f"{name}: {getattr(decision, name)}, expected {wanted}"
        for name in _EXPECTED
        if (wanted := getattr(case, name)) is not None and wanted != getattr(decision, name)
    )
    return Outcome(case, decision, differences)


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """YAML has lists where the model is frozen with tuples; nothing else is converted."""
    if isinstance(data.get("cases"), list):
        data["cases"] = tuple(data["cases"])
        for case in data["cases"]:
            for name in ("history", "down"):
                if isinstance(case, dict) and isinstance(case.get(name), list):
                    case[name] = tuple(case[name])
    return data


def _accepted_at(parent: tuple[str | int, ...]) -> tuple[str, ...]:
    return keys_of(Case if parent else Table)
