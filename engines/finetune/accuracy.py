"""How often an engine's answers are right on held-out examples, whole and by field, with an adapter and without.

In: a data set and how the engine is loaded. Out: `Accuracy`. The engine is asked as a caller would, so what counts is
what is served.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engines.base import (
    ContextLengthError,
    Engine,
    EngineOptions,
    GenerationRequest,
    InvalidRequestError,
    SamplingParams,
    generate,
)
from engines.dataset_format import Example
from engines.finetune.data import DataSet
from engines.finetune.settings import FinetuneError

_IN_FLIGHT = 16
_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of right answers, 0 to 1.

    Attributes:
        num: answers that were judged.
        whole: equal to the wanted answer; JSON is compared as values.
        slices: the same by slice.
        kinds: the same by kind.
        fields: share of examples that have the field and whose answer has its value.
    """

    num: int
    whole: float
    slices: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, float] = field(default_factory=dict)
    fields: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)


async def measure(name: str, options: EngineOptions, data: DataSet, examples: Sequence[Example]) -> Accuracy:
    """Ask an engine all examples, with the one adapter of its options if it has one.

    Args:
        name: ``glm`` or ``owl2``.
        options: how it is loaded.
        data: where the pictures are.
        examples: to ask.

    Raises:
        FinetuneError: as `ask`.
    """
    answers = await ask(name, options, data, examples)
    return judge(examples, answers)


async def ask(name: str, options: EngineOptions, data: DataSet, examples: Sequence[Example]) -> list[str]:
    """Return an engine's answers, in the order of the examples; none to a question that is too long for it.

    Raises:
        FinetuneError: naming an example that the engine refuses for another reason.
    """
    engine: Engine = importlib.import_module(f"engines.{name}.engine").load(options)
    adapter = options.adapters[0][0] if options.adapters else ""
    free = asyncio.Semaphore(_IN_FLIGHT)

    async def ask_one(example: Example) -> str:
        async with free:
            request = GenerationRequest(data.messages(example), SamplingParams(max_tokens=_MAX_TOKENS), adapter=adapter)
            try:
                return (await generate(engine, request)).text
            except ContextLengthError:
                return ""
            except InvalidRequestError as error:
                raise FinetuneError(
                    f"held-out example {example.id!r} cannot be used: {error}",
                    f"无法使用留出样本 {example.id!r}：{error}",
                ) from error

    await engine.start()
    try:
        return list(await asyncio.gather(*map(ask_one, examples)))
    finally:
        await engine.aclose()


def judge(examples: Sequence[Example], answers: Sequence[str]) -> Accuracy:
    """Compare answers with those that were wanted."""
    by_slice: dict[str, list[bool]] = defaultdict(list)
    by_kind: dict[str, list[bool]] = defaultdict(list)
    by_field: dict[str, list[bool]] = defaultdict(list)
    whole: list[bool] = []
    for example, answer in zip(examples, answers, strict=True):
        wanted, said = _fields_of(example.answer), _fields_of(answer)
        is_right = wanted == said if wanted is not None else answer.strip() == example.answer.strip()
        whole.append(is_right)
        by_slice[example.slice].append(is_right)
        by_kind[example.kind].append(is_right)
        for name, value in (wanted or {}).items():
            by_field[name].append(said is not None and name in said and said[name] == value)
    return Accuracy(
        len(whole),
        _share(whole),
        _shares(by_slice),
        _shares({k: v for k, v in by_kind.items() if k}),
        _shares(by_field),
    )


def _fields_of(answer: str) -> dict[str, Any] | None:
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def _shares(groups: dict[str, list[bool]]) -> dict[str, float]:
    return {name: _share(values) for name, values in sorted(groups.items())}
