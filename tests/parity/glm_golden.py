"""The golden set of GLM-4.6V-Flash, as the parity tests read it: everything about its cases comes from its files.

In: the folder that ``GLOWL_GOLDEN_GLM`` names, by default ``shared/golden/glm`` beside this checkout. Out: cases and
requests; nothing, so that the tests skip, where there is no such folder.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.base import EngineOptions, GenerationRequest, ImagePart, Message, SamplingParams, TextPart
from engines.glm.engine import GlmEngine, Plan, load
from engines.glm.runner import Pixels, PreparedRequest

DEFAULT_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "glm"
GOLDEN = Path(os.environ.get("GLOWL_GOLDEN_GLM") or DEFAULT_FOLDER).resolve()
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"there is no golden set in {GOLDEN}")
if "GLOWL_GOLDEN_GLM" in os.environ and not GOLDEN.is_dir():
    raise FileNotFoundError(f"GLOWL_GOLDEN_GLM names {GOLDEN}, which is no folder")

Case = dict[str, Any]


def read_json(name: str) -> dict[str, Any]:
    """Read a file of the set; empty if there is no set, so that tests can be collected."""
    return dict(json.loads((GOLDEN / name).read_text("utf-8"))) if GOLDEN.is_dir() else {}


GOLDENS = read_json("cases.json")
CASES: dict[str, Case] = {case["name"]: case for case in GOLDENS.get("cases", [])}
MAX_TOKENS: int = GOLDENS.get("max_new_tokens") or max((len(case["greedy_ids"]) for case in CASES.values()), default=1)
# A set may leave it to its checkpoint to say what ends an answer.
EOS_IDS = frozenset(GOLDENS.get("eos_token_id") or read_json("model/generation_config.json").get("eos_token_id", ()))
SAMPLING = SamplingParams(max_tokens=MAX_TOKENS)
# sdpa and eager, one thread and two differ by 1e-5, and these random weights magnify the rest.
LOGITS_ATOL = 5e-3


def golden_logits(name: str) -> npt.NDArray[np.float32]:
    """Return the logits at the end of a case's prompt; (V,)."""
    with np.load(GOLDEN / "cases.npz") as arrays:
        return np.asarray(arrays[f"logits__{name}"])


def to_image(file: str) -> ImagePart:
    """Read a picture of the set."""
    data = (GOLDEN / file).read_bytes()
    return ImagePart(data, mimetypes.guess_type(file)[0] or "image/png", hashlib.sha256(data).hexdigest())


def images_of(case: Case) -> tuple[ImagePart, ...]:
    """Read the pictures of a case, in order."""
    return tuple(map(to_image, files_of(case)))


def files_of(case: Case) -> list[str]:
    """Return the names of a case's pictures, in order."""
    contents = [turn["content"] for turn in case["messages"] if isinstance(turn["content"], list)]
    return [part["file"] for content in contents for part in content if part["type"] == "image"]


def thinks(case: Case) -> bool:
    """Tell whether a case is to think; the template takes a missing argument for True."""
    return case.get("enable_thinking") is not False


def tags(case: Case, kind: str) -> list[str]:
    """Return what a case's tags of one kind name, such as the case it shares its ids with."""
    return [tag.removeprefix(f"{kind}:") for tag in case.get("tags") or () if tag.startswith(f"{kind}:")]


def is_beyond_the_border(case: Case) -> bool:
    """Tell whether a case has tool turns, or reasoning that goes on, which the engines' border has no words for."""
    turns = case["messages"]
    last_user = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    has_tools = any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns)
    return has_tools or any(turn["role"] == "assistant" for turn in turns[last_user + 1 :])


def rope_delta(case: Case) -> int:
    """Return where positions behind a case's prompt are moved to; a text has no reason to say it."""
    return int(case.get("rope_delta") or 0)


def to_request(case: Case) -> GenerationRequest:
    """Put a case in the border's words; earlier reasoning is left out, and the template would drop it anyway."""

    def to_parts(content: Any) -> tuple[TextPart | ImagePart, ...]:
        if isinstance(content, str):
            return (TextPart(content),)
        return tuple(TextPart(p["text"]) if p["type"] == "text" else to_image(p["file"]) for p in content)

    messages = tuple(Message(turn["role"], to_parts(turn["content"])) for turn in case["messages"])
    return GenerationRequest(messages, SAMPLING, enable_thinking=thinks(case))


@asynccontextmanager
async def started_engine() -> AsyncIterator[GlmEngine]:
    """Load the set's checkpoint, with no bounds of its pictures but its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engines.glm.engine.MAX_SIDE_PX", 10**6)
        engine = load(EngineOptions(str(GOLDEN / "model"), device="cpu", pixel_budget=10**9))
        await engine.start()
        yield engine
        await engine.aclose()


async def prepare(engine: GlmEngine, case: Case) -> tuple[Plan, list[Pixels]]:
    """Prepare a case as the engine does; what is beyond the border starts at the template."""
    images = images_of(case)
    pictures = await engine._pictures.run_all(images, engine.patchify)
    if not is_beyond_the_border(case):
        return engine.plan(to_request(case)), pictures
    rows = [engine._num_rows(image) for image in images]
    ids = engine.encode(case["messages"], rows, enable_thinking=thinks(case))
    return Plan(ids, sum(rows), MAX_TOKENS), pictures


def make_job(engine: GlmEngine, case: Case, plan: Plan, pictures: list[Pixels]) -> PreparedRequest:
    """Make what the runner takes; a new one for each time that a case is asked."""
    return engine.assemble(plan, pictures, GenerationRequest((), SAMPLING, enable_thinking=thinks(case)))
