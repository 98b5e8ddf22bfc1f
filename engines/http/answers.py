"""Answers as chat-completions JSON: whole, or chunk by chunk; and chunks of any server back to deltas.

In: results and deltas, or the payload of an event. Out: the one made from the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from engines.base import (
    Delta,
    FinishReason,
    GenerationFailedError,
    GenerationResult,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from engines.http.errors import from_error, is_failure
from engines.http.sse import DONE, to_event
from engines.http.tools import NO_INDEX, to_wire_calls, to_wire_deltas
from engines.json_forms import from_boxes, from_logprobs, to_boxes, to_choice_logprobs
from engines.json_text import dump_line
from engines.tools import ToolCallDelta

# More tokens than any context has; it fits a double, so that every JSON reader reads the same number.
_MAX_COUNT: Final = 2**53

# How servers of GLM and others end an answer. Only a known good end is one: what is not listed here is a failure.
_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    **dict.fromkeys(("stop", "stop_sequence", "stop_str", "eos", "eos_token", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    # Z.ai's word for a full context; vLLM's for an answer that was cut because it went round in circles.
    **dict.fromkeys(("model_context_window_exceeded", "repetition"), "length"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(("content_filter", "sensitive", "safety", "refusal", "blocked", "recitation"), "content_filter"),
}


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What every chunk of one answer repeats.

    Attributes:
        completion_id: ``chatcmpl-...``.
        created: unix seconds.
        model: the name shown in the answer.
        include_usage: end the stream with a chunk of token counts.
        has_logprobs: a whole answer carries log probabilities, if only an empty list.
    """

    completion_id: str
    created: int
    model: str
    include_usage: bool = False
    has_logprobs: bool = False


def to_completion(result: GenerationResult, head: CompletionHead) -> bytes:
    """Encode a whole answer as a ``chat.completion`` object."""
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    if result.reasoning:
        message["reasoning_content"] = result.reasoning
    if result.tool_calls:
        message["content"] = result.text or None
        message["tool_calls"] = to_wire_calls(result.tool_calls)
    if result.boxes:
        message["glowl"] = {"boxes": to_boxes(result.boxes)}
    return dump_line(
        {
            "id": head.completion_id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": to_choice_logprobs(result.logprobs) if head.has_logprobs else None,
                    "finish_reason": result.finish_reason,
                    **_stopped_by(result.stop_sequence),
                }
            ],
            "usage": to_usage(result.usage),
        }
    )


def to_first_event(head: CompletionHead) -> bytes:
    """Encode the event that opens a stream: the role, and no text yet."""
    return _to_chunk(head, {"role": "assistant", "content": ""})


def to_events(delta: Delta, head: CompletionHead) -> bytes:
    """Encode one delta as server-sent events; the last delta brings the finish reason, the usage and ``[DONE]``."""
    events = b""
    if delta.text or delta.reasoning or delta.logprobs or delta.boxes or delta.tool_calls:
        content: dict[str, Any] = {}
        if delta.reasoning:
            content["reasoning_content"] = delta.reasoning
        if delta.text:
            content["content"] = delta.text
        if delta.boxes:
            content["glowl"] = {"boxes": to_boxes(delta.boxes)}
        if delta.tool_calls:
            content["tool_calls"] = to_wire_deltas(delta.tool_calls)
        events += _to_chunk(head, content, logprobs=delta.logprobs)
    if delta.finish_reason is not None:
        events += _to_chunk(head, {}, finish_reason=delta.finish_reason, stop_sequence=delta.stop_sequence)
        if head.include_usage:
            events += to_event({**_chunk_head(head), "choices": [], "usage": to_usage(delta.usage or Usage())})
        events += b"data: " + DONE + b"\n\n"
    return events


def _chunk_head(head: CompletionHead) -> dict[str, Any]:
    return {
        "id": head.completion_id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
    }


def _to_chunk(
    head: CompletionHead,
    delta: Mapping[str, Any],
    finish_reason: FinishReason | None = None,
    logprobs: tuple[TokenLogprob, ...] = (),
    stop_sequence: str = "",
) -> bytes:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": to_choice_logprobs(logprobs) if logprobs else None,
        "finish_reason": finish_reason,
        **_stopped_by(stop_sequence),
    }
    chunk = {**_chunk_head(head), "choices": [choice]}
    if head.include_usage:
        chunk["usage"] = None
    return to_event(chunk)


def _stopped_by(stop_sequence: str) -> dict[str, Any]:
    """Name the stop string that ended an answer, as vLLM does."""
    return {"stop_reason": stop_sequence} if stop_sequence else {}


def to_usage(usage: Usage) -> dict[str, Any]:
    """Return usage as chat completions have it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "image_tokens": usage.image_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def from_event(payload: bytes) -> Delta:
    """Understand one event of an answer; an event may bring any of text, reasoning, finish reason and usage.

    An event without choices, as some servers send for token counts or metadata, brings no text and is no fault.

    Raises:
        EngineError: the one the event carries, or `GenerationFailedError` if it is no chat-completion chunk.
    """
    found = read_event(payload)
    return Delta(text=found) if isinstance(found, str) else found


def read_event(payload: bytes) -> str | Delta:
    """Like `from_event`; of an event that brings text and nothing else, as nearly all do, only the text.

    Raises:
        EngineError: as `from_event` does.
    """
    try:
        chunk = orjson.loads(payload)
        text = _only_text(chunk)
        return _from_chunk(chunk, payload) if text is None else text
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise GenerationFailedError("The engine sent an event that is no chat-completion chunk.") from error


def _only_text(chunk: dict[str, Any]) -> str | None:
    """Return the text of a chunk; None if it may have anything else."""
    choices = chunk.get("choices")
    if not choices or len(choices) != 1 or chunk.get("usage") or "error" in chunk or "status" in chunk:
        return None
    choice = choices[0]
    delta = choice.get("delta")
    if not delta or choice.get("index") != 0 or choice.get("finish_reason") or choice.get("logprobs"):
        return None
    text = delta.get("content")
    is_alone = len(delta) == 1 or not any(value for name, value in delta.items() if name not in ("content", "role"))
    return text if isinstance(text, str) and is_alone else None


def _from_chunk(chunk: dict[str, Any], payload: bytes) -> Delta:
    if is_failure(chunk):
        raise from_error(None, payload)
    usage = _from_usage(chunk["usage"]) if chunk.get("usage") else None
    if not chunk.get("choices"):
        return Delta(usage=usage)
    # Of several answers, which nobody asked for, the first is meant.
    choice = next((each for each in chunk["choices"] if each.get("index") in (0, None)), None)
    if choice is None:
        return Delta(usage=usage)
    delta = choice.get("delta") or {}
    text, thoughts = _from_content(delta.get("content"))
    more_thoughts = _from_content(delta.get("reasoning_content") or delta.get("reasoning"))
    finish_reason = _from_finish_reason(choice.get("finish_reason"))
    return Delta(
        text=text,
        reasoning=thoughts + "".join(more_thoughts),
        finish_reason=finish_reason,
        usage=usage,
        logprobs=from_logprobs((choice.get("logprobs") or {}).get("content")),
        boxes=from_boxes((delta.get("glowl") or {}).get("boxes")),
        tool_calls=tuple(map(_from_call, delta.get("tool_calls") or ())),
        stop_sequence=_stop_sequence_of(choice) if finish_reason == "stop" else "",
    )


def _stop_sequence_of(choice: Mapping[str, Any]) -> str:
    """Read which stop string ended an answer: as vLLM, or as SGLang has it; both have a number for a token."""
    named = choice.get("stop_reason", choice.get("matched_stop"))
    return named if isinstance(named, str) else ""


def _from_content(content: object) -> tuple[str, str]:
    """Read a delta's text and the reasoning in it: a string, or a list of parts as newer servers write it.

    Raises:
        TypeError: if it is something else, or has a part that is no text.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TypeError("content is neither text nor a list of parts")
    text = reasoning = ""
    for part in content:
        if isinstance(part, dict):
            said, thought = _from_content(part.get("text"))
            if part.get("type") in ("reasoning", "thinking", "reasoning_text"):
                said, thought = "", said + thought
        else:
            said, thought = _from_content(part)
        text, reasoning = text + said, reasoning + thought
    return text, reasoning


def _from_call(piece: Mapping[str, Any]) -> ToolCallDelta:
    """Read a piece of a call; what it leaves out is empty.

    Raises:
        TypeError: if a part of it is of the wrong type.
    """
    function = piece.get("function") or {}
    index, arguments = piece.get("index"), function.get("arguments")
    if isinstance(arguments, dict):  # some servers send them as they are
        arguments = orjson.dumps(arguments).decode()
    texts = [piece.get("id"), function.get("name"), arguments]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError("a part of a function call is no text")
    if not (index is None or (isinstance(index, int) and index >= 0)):
        raise TypeError("the index of a function call is no number")
    return ToolCallDelta(NO_INDEX if index is None else index, *(text or "" for text in texts))


def _from_finish_reason(value: object) -> FinishReason | None:
    """Read why an answer ended; None if it has not.

    Raises:
        GenerationFailedError: if the server gave it up, or says something that is not known to be a good end.
    """
    if value is None or value == "":  # some servers say "" on every chunk but the last
        return None
    known = _FINISH_REASONS.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        raise GenerationFailedError(f"The engine broke its answer off: {str(value)[:40]!r}.")
    return known


def _from_usage(usage: Mapping[str, Any]) -> Usage:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return Usage(
        prompt_tokens=_from_count(usage.get("prompt_tokens")),
        completion_tokens=_from_count(usage.get("completion_tokens")),
        image_tokens=_from_count(prompt.get("image_tokens")),
        cached_tokens=_from_count(prompt.get("cached_tokens")),
        reasoning_tokens=_from_count(completion.get("reasoning_tokens") or usage.get("reasoning_tokens")),
    )


def bound_usage(usage: Usage, sampling: SamplingParams) -> Usage:
    """Bound the token counts that a server tells: no part is more than its whole, and no answer more than was allowed.

    Some servers count the tokens that they threw away, or the prompt's, as the answer's.

    Args:
        usage: as told.
        sampling: what was asked for.
    """
    completion = min(usage.completion_tokens, sampling.max_tokens or usage.completion_tokens)
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=completion,
        image_tokens=min(usage.image_tokens, usage.prompt_tokens),
        cached_tokens=min(usage.cached_tokens, usage.prompt_tokens),
        reasoning_tokens=min(usage.reasoning_tokens, completion),
    )


def _from_count(value: object) -> int:
    """Read a number of tokens; a server that does not count says none.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is no whole number from 0 up, or too large to be stored.
    """
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number of tokens is no number")
    if value != int(value) or not 0 <= value < _MAX_COUNT:
        raise ValueError("no number of tokens")
    return int(value)
