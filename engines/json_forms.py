"""Boxes and log probabilities as JSON, and back: one form for engines, answers and job records.

In: the types of `engines.base`. Out: what `json` can write; and the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from engines.base import Alternative, Box, TokenLogprob

# JSON has no infinity; this is what OpenAI and vLLM send for a token that could not come.
LEAST_LOGPROB: Final = -9999.0


def to_boxes(boxes: Iterable[Box]) -> list[dict[str, Any]]:
    """Encode boxes as a list of ``{"image", "x1", "y1", "x2", "y2"}``, in hundredths of a pixel."""
    return [
        {
            "image": box.image,
            "x1": round(box.left, 2),
            "y1": round(box.top, 2),
            "x2": round(box.right, 2),
            "y2": round(box.bottom, 2),
        }
        for box in boxes
    ]


def from_boxes(entries: list[dict[str, Any]] | None) -> tuple[Box, ...]:
    """Read `to_boxes`' form.

    Raises:
        KeyError, TypeError, ValueError: if it is something else.
    """
    return tuple(
        Box(float(entry["x1"]), float(entry["y1"]), float(entry["x2"]), float(entry["y2"]), int(entry["image"]))
        for entry in entries or ()
    )


def to_choice_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Encode log probabilities as a chat completion's choice has them."""
    return {"content": to_logprobs(tokens), "refusal": None}


def to_logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Encode log probabilities as a list of ``{"token", "logprob", "bytes", "top_logprobs"}``."""
    return [{**_to_logprob(token), "top_logprobs": [_to_logprob(other) for other in token.top]} for token in tokens]


def _to_logprob(token: TokenLogprob | Alternative) -> dict[str, Any]:
    logprob = token.logprob if math.isfinite(token.logprob) else LEAST_LOGPROB
    return {"token": token.token, "logprob": logprob, "bytes": list(token.data)}


def from_logprobs(entries: list[dict[str, Any]] | None) -> tuple[TokenLogprob, ...]:
    """Read `to_logprobs`' form, or another server's, which may lack the bytes and the alternatives.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is something else.
    """
    return tuple(
        TokenLogprob(
            *_from_logprob(entry),
            top=tuple(Alternative(*_from_logprob(other)) for other in entry.get("top_logprobs") or ()),
        )
        for entry in entries or ()
    )


def _from_logprob(entry: Mapping[str, Any]) -> tuple[str, float, bytes]:
    token, logprob, data = str(entry["token"]), entry.get("logprob"), entry.get("bytes")
    return (
        token,
        LEAST_LOGPROB if logprob is None else float(logprob),
        token.encode("utf-8", "replace") if data is None else bytes(list(data)),
    )
