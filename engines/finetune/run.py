"""A whole run: what the base can, training, what the adapter can, and the card.

In: an engine's name, a base, a data set, settings and a folder. Out: in that folder an adapter that the engine serves
as ``MODEL:NAME``. The same call with ``is_resumed`` goes on where a killed run stopped.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.base import ContextLengthError, EngineOptions, InvalidRequestError
from engines.finetune import training
from engines.finetune.accuracy import Accuracy, measure
from engines.finetune.card import REPORT, Report, write_card
from engines.finetune.data import DataSet, read_dataset
from engines.finetune.encoding import Encoded, Student
from engines.finetune.features import FeatureCache
from engines.finetune.settings import FinetuneError, FinetuneSettings
from engines.revision import revision_of

# Hidden, as what is in it has no part in what the adapter answers, which a revision is made of.
WORK = ".run"
_STARTED = "started.json"
_NAME = "trained"

log = logging.getLogger(__name__)


def finetune(
    engine: str,
    options: EngineOptions,
    folder: Path,
    settings: FinetuneSettings,
    out: Path,
    *,
    is_resumed: bool = False,
) -> Report:
    """Train an adapter.

    Args:
        engine: ``glm`` or ``owl2``.
        options: which base; device, dtype and quantization are the settings'.
        folder: the data set.
        settings: of the run.
        out: for the adapter, made if absent.
        is_resumed: go on with the run in ``out``.

    Returns:
        What the card says.

    Raises:
        FinetuneError: if it cannot be done as it was asked for.
    """
    options = replace(
        options, device=_device(settings.device), dtype=settings.dtype, quantization=settings.quantization, adapters=()
    )
    data = read_dataset(folder)
    revision = revision_of([("", options.model)], f"{settings.dtype}/{settings.quantization}")
    is_first = int(os.environ.get("RANK", "0")) == 0  # under accelerate, one process asks and writes
    if is_first:
        _begin(out, engine, revision, data, settings, is_resumed=is_resumed)
    heldout = data.heldout[: settings.heldout]
    before = _before(out, engine, options, data, heldout) if is_first and heldout else None

    student = make_student(engine, options)
    features = FeatureCache(out / WORK / "features", student.revision)
    examples = encode_all(student, data, features, settings.max_length)
    base = options.model_name or options.model
    model = training.with_adapter(student, settings)
    began = time.monotonic()
    curve = training.train(student, model, examples, features, settings, out / WORK)
    seconds = time.monotonic() - began
    if is_first:
        training.save(model, out, base)
    del model, student
    gc.collect()
    after = None
    if is_first and heldout:
        adapted = replace(options, adapters=((_NAME, str(out)),))
        after = asyncio.run(measure(engine, adapted, data, heldout))
    num_left_out = len(data.train) - len(examples)
    report = Report(
        engine,
        base,
        revision,
        data.digest,
        len(examples),
        num_left_out,
        data.num_shared,
        settings,
        curve,
        before,
        after,
        seconds,
    )
    if is_first:
        write_card(out, report)
    return report


def _device(wanted: str) -> str:
    """Return the device of this process: under accelerate, each has a card of its own."""
    import torch

    place = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{place}" if place and wanted in ("auto", "cuda") and torch.cuda.is_available() else wanted


def make_student(engine: str, options: EngineOptions) -> Student:
    """Load the model to train."""
    if engine == "glm":
        from engines.finetune.glm import GlmStudent

        return GlmStudent(options)
    if engine == "owl2":
        from engines.finetune.owl2 import Owl2Student

        return Owl2Student(options)
    raise FinetuneError(
        f"there is no model {engine!r} to train; there are: glm, owl2",
        f"没有可训练的模型 {engine!r}；可用的有：glm, owl2",
    )


def encode_all(student: Student, data: DataSet, features: FeatureCache, max_length: int) -> list[Encoded]:
    """Turn the examples to train on into rows, their pictures into kept features.

    Raises:
        FinetuneError: naming an example that the engine would refuse; if none is short enough.
    """
    encoded = []
    for example in data.train:
        try:
            rows = student.encode(data.messages(example), example.answer, features)
        except ContextLengthError:
            continue
        except (InvalidRequestError, ValueError, OSError) as error:
            raise FinetuneError(
                f"example {example.id!r} cannot be used: {error}", f"无法使用样本 {example.id!r}：{error}"
            ) from error
        if len(rows.ids) <= max_length:
            encoded.append(rows)
    if not encoded:
        raise FinetuneError(
            f"every example has more than {max_length} tokens, or more than the model takes; raise max_length",
            f"所有样本都超过 {max_length} 个 token，或超过模型的上限；请增大 max_length",
        )
    if num_left_out := len(data.train) - len(encoded):
        log.warning("%d examples are too long (max_length = %d) and are left out", num_left_out, max_length)
    return encoded


def _begin(
    out: Path, engine: str, revision: str, data: DataSet, settings: FinetuneSettings, *, is_resumed: bool
) -> None:
    """Note what the run is, or check that one that goes on is the same."""
    if (out / REPORT).exists():
        raise FinetuneError(
            f"{out} holds a finished run; choose another --out", f"{out} 中已有完成的训练；请选择另一个 --out"
        )
    note = {"engine": engine, "base": revision, "data": data.digest, "settings": settings.to_dict()}
    file = out / WORK / _STARTED
    if not is_resumed:
        if file.exists():
            raise FinetuneError(
                f"{out} holds a run that was not finished; --resume goes on with it",
                f"{out} 中有未完成的训练；用 --resume 继续",
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(note, indent=1) + "\n", "utf-8")
        return
    try:
        known: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FinetuneError(f"{out} holds no run to go on with", f"{out} 中没有可继续的训练") from error
    if other := [name for name, value in note.items() if known.get(name) != value]:
        raise FinetuneError(
            f"the run in {out} has other {' and '.join(other)} and goes on with the same only; "
            "choose another --out, or delete that folder",
            f"{out} 中的训练使用了不同的 {', '.join(other)}，只能以相同的内容继续；请选择另一个 --out，或删除该目录",
        )


def _before(out: Path, engine: str, options: EngineOptions, data: DataSet, heldout: Any) -> Accuracy:
    """What the base can; asked once, however often the run goes on."""
    file = out / WORK / "before.json"
    if file.exists():
        return Accuracy(**json.loads(file.read_text("utf-8")))
    before = asyncio.run(measure(engine, options, data, heldout))
    file.write_text(json.dumps(before.to_dict()) + "\n", "utf-8")
    return before
