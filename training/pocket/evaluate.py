"""Asks pocket checkpoints fresh questions through the engines that serve them, and prints how often they are right.

In: checkpoint folders. Out: Markdown tables, and with ``--json`` a file: per engine and question type the accuracy with
its 95 % interval, what the best blind strategy scores, the bar, and whether it is passed. Answers are decoded greedily.

Run: ``python -m training.pocket.evaluate --questions 200``
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from engines.base import (
    Engine,
    EngineOptions,
    GenerationRequest,
    ImagePart,
    Message,
    SamplingParams,
    TextPart,
    generate,
)
from training.pocket import SHIPPED
from training.pocket.checkpoints import EngineName
from training.pocket.robust import bar_of, conditions, count_false_alarms, draw_condition
from training.pocket.scenes import TYPES, Lang, Question, blind_baselines, is_right, render, sample_question
from training.pocket.train import trained_types

ENGINES: tuple[EngineName, ...] = ("glm", "owl2")
DEFAULT_MODELS = SHIPPED / "weights"
DEFAULT_SEED = 7_368_787
MAX_TOKENS = 80
SHORT_ANSWER_TOKENS = 4
# Asked one after another before anything else: their latency is what a lone caller would see.
_NUM_TIMED = 60
# What an engine answers side by side on a CPU, and as many again, so that it never waits for us.
_IN_FLIGHT = 16
# A blind strategy needs no engine. From fewer questions than these the best of several would look better than it is.
_FEWEST_FOR_BASELINE = 2000
# Of eight questions to a model that has both; pairs, because baselines are learned on every other question. Chinese is
# what GLM is for.
_LANGUAGES: tuple[Lang, ...] = ("zh",) * 6 + ("en",) * 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question with the answer it got.

    Attributes:
        question: what was asked.
        answer: what came back, without white space at its ends.
        seconds: from request to the last token.
        num_tokens: of the answer.
    """

    question: Question
    answer: str
    seconds: float
    num_tokens: int

    @property
    def is_right(self) -> bool:
        """The answer says what was asked for."""
        return is_right(self.question, self.answer)


@dataclass(frozen=True, slots=True)
class Blind:
    """The best strategy that does not answer the question.

    Attributes:
        strategy: its name, as `blind_baselines` has it.
        accuracy: share of right answers.
        high: upper end of the 95 % interval of that share.
    """

    strategy: str
    accuracy: float
    high: float


@dataclass(frozen=True, slots=True)
class TypeScore:
    """How an engine does on one question type.

    Attributes:
        n: questions asked.
        accuracy: share of right answers.
        low: lower end of its 95 % interval.
        high: upper end.
        blind: share of right answers of the best strategy that does not look or does not listen.
        blind_strategy: its name.
        blind_high: upper end of the 95 % interval of ``blind``.
        bar: share to reach.
        is_must: the bar has to be reached; else it is an aim.
        passed: the bar is reached, and the whole interval lies above the blind strategy's.
        by_language: accuracy per language.
    """

    n: int
    accuracy: float
    low: float
    high: float
    blind: float
    blind_strategy: str
    blind_high: float
    bar: float
    is_must: bool
    passed: bool
    by_language: dict[str, float]


def wilson_interval(num_right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share.

    Source: Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not n:
        return 0.0, 1.0
    share = num_right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


# -- questions --------------------------------------------------------------------------------------------------------


def judged_types(engine: EngineName) -> tuple[str, ...]:
    """The types an engine is trained on and has a bar for."""
    return tuple(name for name in trained_types(engine) if engine in TYPES[name].bars)


def _judged(engine: EngineName, types: Sequence[str]) -> list[str]:
    return [name for name in types or judged_types(engine) if name in judged_types(engine)]


def draw_type(engine: EngineName, name: str, num: int, seed: int) -> list[Question]:
    """Draw questions of a type; no training run draws from the same random numbers.

    Args:
        engine: whose languages; three quarters of GLM's are Chinese.
        name: the type.
        num: how many.
        seed: the same one gives the same questions.
    """
    rng = random.Random(f"evaluation {seed} {name}")  # noqa: S311 - not for secrets
    langs = [lang for lang in _LANGUAGES if lang in TYPES[name].langs[engine]]
    return [sample_question(rng, name, langs[index % len(langs)]) for index in range(num)]


def draw_questions(engine: EngineName, per_type: int, seed: int, types: Sequence[str] = ()) -> list[Question]:
    """Draw the questions of an evaluation.

    Args:
        engine: whose types.
        per_type: how many of each.
        seed: the same one gives the same questions.
        types: only these; what the engine is not judged on is left out.
    """
    return [question for name in _judged(engine, types) for question in draw_type(engine, name, per_type, seed)]


def best_blind(questions: Sequence[Question]) -> Blind:
    """Find the blind strategy that does best on questions of one type."""
    strategy, accuracy = max(blind_baselines(questions).items(), key=lambda item: item[1])
    return Blind(strategy, accuracy, wilson_interval(round(accuracy * len(questions)), len(questions))[1])


# -- asking -----------------------------------------------------------------------------------------------------------


def to_part(image: Image.Image) -> ImagePart:
    """Encode a picture as a caller would send it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    return ImagePart(data, "image/png", sha256(data).hexdigest())


def to_request(question: Question) -> GenerationRequest:
    """Make the request that a caller with this question would send: the pictures, then the text."""
    pictures = tuple(to_part(render(scene)) for scene in question.images)
    message = Message("user", (*pictures, TextPart(question.text)))
    return GenerationRequest((message,), SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0), enable_thinking=False)


async def ask(engine: Engine, question: Question) -> Outcome:
    """Ask one question."""
    request = to_request(question)
    begun = time.perf_counter()
    result = await generate(engine, request)
    return Outcome(question, result.text.strip(), time.perf_counter() - begun, result.usage.completion_tokens)


async def ask_all(engine: Engine, questions: Sequence[Question]) -> list[Outcome]:
    """Ask many questions, several at a time; the outcomes come in the questions' order."""
    free = asyncio.Semaphore(_IN_FLIGHT)

    async def ask_one(question: Question) -> Outcome:
        async with free:
            return await ask(engine, question)

    return list(await asyncio.gather(*(ask_one(question) for question in questions)))


async def start_engine(
    name: EngineName, folder: Path, dtype: str = "auto", quantization: str = "none"
) -> tuple[Engine, float]:
    """Load an engine as the product does; returns it and the seconds until it was ready."""
    begun = time.perf_counter()
    module = importlib.import_module(f"engines.{name}.engine")
    engine: Engine = module.load(EngineOptions(str(folder), dtype=dtype, quantization=quantization))
    await engine.start()
    return engine, time.perf_counter() - begun


async def time_short_answers(engine: Engine, name: EngineName, seed: int, num: int = _NUM_TIMED) -> dict[str, Any]:
    """Ask questions with short answers one after another, and sum up how long each took.

    Returns:
        ``n``, ``median_s`` and ``p95_s``; the two are None where no answer was short.
    """
    questions = draw_questions(name, -(-num // len(judged_types(name))), seed + 1)
    random.Random(seed).shuffle(questions)  # noqa: S311
    outcomes = [await ask(engine, question) for question in questions[:num]]
    short = sorted(outcome.seconds for outcome in outcomes if outcome.num_tokens <= SHORT_ANSWER_TOKENS)
    return {
        "n": len(short),
        "median_s": statistics.median(short) if short else None,
        "p95_s": short[math.ceil(0.95 * len(short)) - 1] if short else None,
    }


# -- judging ----------------------------------------------------------------------------------------------------------


def score_type(engine: EngineName, outcomes: Sequence[Outcome], blind: Blind) -> TypeScore:
    """Sum up outcomes of one type."""
    info = TYPES[outcomes[0].question.type]
    n, num_right = len(outcomes), sum(outcome.is_right for outcome in outcomes)
    low, high = wilson_interval(num_right, n)
    accuracy, bar = num_right / n, info.bars[engine]
    # A text turn has nothing to look at, so its blind score says nothing.
    is_above_blind = low > blind.high or not info.num_images or info.is_honest
    by_language: dict[str, float] = {
        lang: statistics.fmean(outcome.is_right for outcome in outcomes if outcome.question.lang == lang)
        for lang in dict.fromkeys(outcome.question.lang for outcome in outcomes)
    }
    return TypeScore(
        n,
        accuracy,
        low,
        high,
        blind.accuracy,
        blind.strategy,
        blind.high,
        bar,
        info.is_must,
        accuracy >= bar and is_above_blind,
        by_language,
    )


def score_condition(condition: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Sum up the outcomes under one condition, and name the type that it costs most."""
    by_type: dict[str, list[bool]] = {}
    for outcome in outcomes:
        by_type.setdefault(outcome.question.type, []).append(outcome.is_right)
    shares = {name: statistics.fmean(right) for name, right in by_type.items()}
    weakest = min(shares, key=lambda name: shares[name])
    n, num_right = len(outcomes), sum(outcome.is_right for outcome in outcomes)
    low, high = wilson_interval(num_right, n)
    return {
        "n": n,
        "accuracy": num_right / n,
        "low": low,
        "high": high,
        "bar": bar_of(condition),
        "passed": num_right >= bar_of(condition) * n,
        "weakest": weakest,
        "weakest_accuracy": shares[weakest],
    }


async def evaluate_engine(
    name: EngineName,
    folder: Path,
    per_type: int,
    seed: int,
    *,
    dtype: str = "auto",
    quantization: str = "none",
    types: Sequence[str] = (),
    begun: float | None = None,
) -> dict[str, Any]:
    """Ask one engine everything it is judged on.

    Args:
        name: which engine.
        folder: its checkpoint.
        per_type: questions of each type.
        seed: of the questions.
        dtype: as of `EngineOptions`.
        quantization: likewise.
        types: only these.
        begun: `time.time` when this process was started, if getting ready counts from there.

    Returns:
        ``types`` with one `TypeScore` each as a dict, ``latency`` of short answers, ``ready_s``, ``model``, and some of
        the wrong answers.
    """
    engine, ready_s = await start_engine(name, folder, dtype, quantization)
    if begun is not None:
        ready_s = time.time() - begun
    scores: dict[str, dict[str, Any]] = {}
    under: dict[str, dict[str, Any]] = {}
    wrong: list[dict[str, str]] = []
    asked: list[tuple[Question, str]] = []

    def keep(name: str, outcomes: Sequence[Outcome]) -> None:
        asked.extend((outcome.question, outcome.answer) for outcome in outcomes)
        missed = [outcome for outcome in outcomes if not outcome.is_right]
        wrong.extend(
            {
                "type": name,
                "text": outcome.question.text,
                "expected": outcome.question.answer,
                "answer": outcome.answer,
            }
            for outcome in missed[:5]
        )

    try:
        info = await engine.info()
        latency = await time_short_answers(engine, name, seed)
        for type_name in _judged(name, types):
            num = per_type if TYPES[type_name].is_honest else max(per_type, _FEWEST_FOR_BASELINE)
            questions = draw_type(name, type_name, max(2, num), seed)
            outcomes = await ask_all(engine, questions[:per_type])
            result = score_type(name, outcomes, best_blind(questions))
            scores[type_name] = asdict(result)
            keep(type_name, outcomes)
            print(f"{name} {type_name} {result.accuracy:.3f} of {result.n}", file=sys.stderr, flush=True)
        for condition in conditions(name) if not types or "conditions" in types else ():
            outcomes = await ask_all(engine, draw_condition(name, condition, per_type, seed))
            under[condition] = score_condition(condition, outcomes)
            keep(f"condition {condition}", outcomes)
            print(f"{name} {condition} {under[condition]['accuracy']:.3f}", file=sys.stderr, flush=True)
    finally:
        await engine.aclose()
    return {
        "model": info.model_id,
        "dtype": dtype,
        "quantization": quantization,
        "ready_s": ready_s,
        "latency": latency,
        "accuracy": statistics.fmean(row["accuracy"] for row in scores.values()) if scores else None,
        "not_passed": {
            "must": [type_name for type_name, row in scores.items() if row["is_must"] and not row["passed"]],
            "aim": [type_name for type_name, row in scores.items() if not row["is_must"] and not row["passed"]],
        },
        "types": scores,
        "conditions": under,
        "false_alarms": asdict(alarms := count_false_alarms(asked)) | {"passed": alarms.passed},
        "wrong": wrong,
    }


def _evaluate_in_process(name: EngineName, folder: Path, begun: float, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)  # more of them only wait for each other on matrices this small
    return asyncio.run(
        evaluate_engine(
            name,
            folder,
            options.questions,
            options.seed,
            dtype=options.dtype,
            quantization=options.quantization,
            types=options.type,
            begun=begun,
        )
    )


# -- the report -------------------------------------------------------------------------------------------------------


def to_markdown(report: dict[str, Any]) -> str:
    """Write one engine's table."""
    lines = [
        f"### {report['model']}, {report['dtype']}, quantization {report['quantization']}",
        "",
        "| type | n | accuracy | 95 % interval | best blind strategy | bar | passed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in report["types"].items():
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        bar = f"{'must' if row['is_must'] else 'aim'} {row['bar']:.2f}"
        blind = f"{row['blind']:.3f} {row['blind_strategy']}"
        passed = "yes" if row["passed"] else "no"
        lines.append(f"| {name} | {row['n']} | {row['accuracy']:.3f} | {interval} | {blind} | {bar} | {passed} |")
    if report["conditions"]:
        lines += ["", "| condition | n | accuracy | 95 % interval | weakest type | bar | passed |"]
        lines.append("|---|---|---|---|---|---|---|")
    for name, row in report["conditions"].items():
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        weakest = f"{row['weakest_accuracy']:.3f} {row['weakest']}"
        passed = "yes" if row["passed"] else "no"
        lines.append(
            f"| {name} | {row['n']} | {row['accuracy']:.3f} | {interval} | {weakest} | {row['bar']:.2f} | {passed} |"
        )
    alarms = report["false_alarms"]
    lines += ["", f"Known questions answered as unknown: {alarms['num']} of {alarms['n']}; at most 1 % may be."]
    latency, missed = report["latency"], report["not_passed"]
    lines += ["", f"Not passed: must: {_listed(missed['must'])}; aim: {_listed(missed['aim'])}."]
    if latency["n"]:
        lines.append(
            f"Short answers, one at a time: median {1000 * latency['median_s']:.0f} ms, 95 % within "
            f"{1000 * latency['p95_s']:.0f} ms (n = {latency['n']}). "
            f"Ready {report['ready_s']:.1f} s after the process began."
        )
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def main(arguments: Iterable[str] | None = None) -> None:
    """Ask pocket checkpoints fresh questions and print how often they are right."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket.evaluate", description=main.__doc__)
    parser.add_argument(
        "--questions", type=int, default=500, help="of each type, condition and engine; 2000 for a full run"
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report here")
    parser.add_argument("--models", type=Path, metavar="DIR", default=DEFAULT_MODELS, help="holds glm/ and owl2/")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this one")
    parser.add_argument(
        "--type", action="append", default=[], help="only this question type, or conditions; may be repeated"
    )
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.questions < 1:
        parser.error("--questions must be at least 1")
    names: Sequence[EngineName] = options.engine or ENGINES
    for name in names:
        if not (options.models / name / "config.json").is_file():
            parser.error(f"there is no checkpoint in {options.models / name}")
    print(
        f"{options.questions} questions of each type, seed {options.seed}; {os.cpu_count()} CPU cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}; load average at the start "
        f"{', '.join(f'{load:.1f}' for load in os.getloadavg())}"
    )
    report: dict[str, Any] = {"questions_per_type": options.questions, "seed": options.seed, "engines": {}}
    # A process and a core for each engine: their work is mostly Python's own.
    with ProcessPoolExecutor(len(names), multiprocessing.get_context("spawn")) as pool:
        running = {
            name: pool.submit(_evaluate_in_process, name, options.models / name, time.time(), options) for name in names
        }
        for name, future in running.items():
            report["engines"][name] = future.result()
            print(f"\n{to_markdown(report['engines'][name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
