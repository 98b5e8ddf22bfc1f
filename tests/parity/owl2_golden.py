"""The golden set of mPLUG-Owl2, as the parity tests read it: everything about its sizes and cases comes from its files.

In: the folder that ``GLOWL_GOLDEN_OWL2`` names, by default ``shared/golden/owl2`` beside this checkout. Out: cases and
arrays; nothing, so that the tests skip, where there is no such folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.base import ImagePart, Message, TextPart
from engines.owl2 import MPLUGOwl2Processor
from engines.owl2.prompts import IMAGE_MARKER

DEFAULT_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "owl2"
GOLDEN = Path(os.environ.get("GLOWL_GOLDEN_OWL2") or DEFAULT_FOLDER).resolve()
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"there is no golden set in {GOLDEN}")

# The reference's eager attention against torch's fused one measured up to 3.5e-5 on logits and 6e-7 on features; the
# smallest modelling mistake that the set's README lists moves the logits by 2e-3.
LOGITS = {"atol": 5e-4, "rtol": 0.0}
FEATURES = {"atol": 1e-5, "rtol": 0.0}

Case = dict[str, Any]


def read_json(name: str) -> Any:
    """Read a file of the set; an empty object if there is no set, so that tests can be collected."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8")) if GOLDEN.is_dir() else {}


def checkpoints() -> list[str]:
    """Name the checkpoint folders: the same weights, in each layout."""
    return sorted(file.parent.name for file in GOLDEN.glob("*/config.json"))


def checkpoint() -> Path:
    """Return one of the checkpoint folders, for what does not depend on the layout of the weights."""
    return GOLDEN / checkpoints()[0]


def cases(having: str | None = None) -> list[Any]:
    """Make the conversation cases parameters, by name.

    Args:
        having: only those whose arrays have that name.
    """
    found = read_json("cases.json").get("cases", [])
    return [
        pytest.param(case, id=case["name"]) for case in found if having is None or having in names_in(case["arrays"])
    ]


def names_in(file: str) -> list[str]:
    """Name the arrays of an ``.npz`` of the set; their numbers are not read."""
    with np.load(GOLDEN / file) as arrays:
        return list(arrays.files)


def dtype() -> torch.dtype:
    """Return the dtype the set was computed in."""
    return getattr(torch, read_json("cases.json")["dtype"])


def arrays_of(file: str) -> dict[str, torch.Tensor]:
    """Read an ``.npz`` of the set."""
    with np.load(GOLDEN / file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def open_image(name: str) -> Image.Image:
    """Open a picture of the set as its README says: converted to RGB."""
    return Image.open(GOLDEN / "images" / name).convert("RGB")


def pixels_of(case: Case, processor: MPLUGOwl2Processor) -> torch.Tensor | None:
    """Prepare the pictures of a case; None if it has none."""
    if not case["images"]:
        return None
    images = [open_image(name) for name in case["images"]]
    return processor.pixel_values(images, aspect_ratio=case["preprocess"])


def messages_of(conversation: list[dict[str, str]], files: list[str]) -> tuple[Message, ...]:
    """Turn the set's notation, markers inside a text, into parts; without files, into pictures that hold nothing."""
    remaining: Iterator[str] = iter(files)
    messages = []
    for entry in conversation:
        first, *others = entry["content"].split(IMAGE_MARKER)
        parts: list[TextPart | ImagePart] = [TextPart(first)] if first else []
        for text in others:
            data = (GOLDEN / "images" / next(remaining)).read_bytes() if files else b""
            parts.append(ImagePart(data, "image/png", "0" * 64))
            if text:
                parts.append(TextPart(text))
        messages.append(Message(entry["role"], tuple(parts)))  # type: ignore[arg-type]
    return tuple(messages)


def keeps_its_order(case: Case) -> bool:
    """Tell whether our prompt may equal the case's: pictures after all of a turn's text are moved before it."""
    contents = [message["content"] for message in case["messages"]]
    return not any(IMAGE_MARKER in text and not text.rpartition(IMAGE_MARKER)[2] for text in contents)


def pad_left(rows: list[list[int]], pad_token_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Put rows of unequal length into one batch; ids and mask, each (B, longest)."""
    longest = max(map(len, rows))
    input_ids = torch.tensor([[pad_token_id] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return input_ids, mask
