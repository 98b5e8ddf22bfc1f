"""What of a request's knobs can be honoured.

In: validated requests. Out: `SamplingParams`, whether GLM thinks, metadata. What we cannot honour is refused by name;
what changes nothing is accepted and ignored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engines.base import SamplingParams
from engines.tools import ToolUse
from router.api import texts
from router.api.other_fields import check_others, unsupported
from router.api.schemas import ChatRequest, Reasoning, ResponsesRequest, Sampling
from router.api.tools import to_tool_use
from router.errors import BadRequestError

MAX_METADATA = 16
LOGPROBS = "message.output_text.logprobs"
# Of OpenAI's values the others are of tools that are not here, of pictures that the caller has, and of thinking that is
# not sent back: clients such as Codex ask for them by habit, and miss nothing.
_INCLUDABLE = (
    LOGPROBS,
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
)
_THINKER = "glm-4.6v-flash"


def to_chat_sampling(request: ChatRequest, json_schema: str | None) -> SamplingParams:
    """Read a chat request's knobs.

    Args:
        request: the body.
        json_schema: what `to_chat_format` read of it.

    Raises:
        BadRequestError: naming the field, for what we cannot honour.
    """
    if request.n not in (None, 1):
        raise unsupported("n", texts.ONE_CHOICE)
    if request.top_logprobs and not request.logprobs:
        raise unsupported("top_logprobs", texts.SEND_LOGPROBS)
    if request.functions and request.function_call != "none":
        raise unsupported("functions", texts.SEND_TOOLS)
    tool_use = _to_tool_use(request, "response_format", json_schema)
    check_others(request.others, is_chat=True, is_greedy=_is_greedy(request))
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stop) > 4:
        raise unsupported("stop", texts.FOUR_STOPS)
    if json_schema is not None and any(stop):
        raise unsupported("stop", texts.STOP_CUTS_JSON)
    return replace(
        _to_shared(request, json_schema, tool_use, has_logprobs=bool(request.logprobs)),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        stop=tuple(text for text in stop if text),
    )


def to_responses_sampling(request: ResponsesRequest, json_schema: str | None) -> SamplingParams:
    """Read a Responses request's knobs.

    Args:
        request: the body.
        json_schema: what `to_responses_format` read of it.

    Raises:
        BadRequestError: naming the field, for what we cannot honour.
    """
    if request.conversation:
        raise unsupported("conversation", texts.NO_CONVERSATIONS)
    if request.background and request.store is False:
        raise unsupported("store", texts.BACKGROUND_IS_STORED)
    _check_include(request)
    tool_use = _to_tool_use(request, "text.format", json_schema)
    verbosity = {"verbosity": request.text.verbosity} if request.text else {}
    check_others({**request.others, **verbosity}, is_chat=False, is_greedy=_is_greedy(request))
    has_logprobs = bool(request.top_logprobs) or LOGPROBS in (request.include or ())
    shared = _to_shared(request, json_schema, tool_use, has_logprobs=has_logprobs)
    return replace(shared, max_tokens=request.max_output_tokens)


def _to_shared(
    request: Sampling, json_schema: str | None, tool_use: ToolUse | None, *, has_logprobs: bool
) -> SamplingParams:
    """Read the knobs that have the same name on both endpoints; a knob that is null has its default."""
    return SamplingParams(
        temperature=_to_temperature(request),
        top_p=request.top_p or 1.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        seed=request.seed,
        top_logprobs=(request.top_logprobs or 0) if has_logprobs else None,
        json_schema=json_schema,
        tool_use=tool_use,
    )


def _check_include(request: ResponsesRequest) -> None:
    """Refuse to include what is unknown; of what is known only log probabilities are ever in a response here."""
    for value in request.include or ():
        if value not in _INCLUDABLE:
            known = ", ".join(f"'{each}'" for each in _INCLUDABLE)
            raise BadRequestError(
                texts.UNKNOWN_INCLUDE.fill(value=value[:64], known=known), code="invalid_value", param="include"
            )


def _to_temperature(request: Sampling) -> float | None:
    """Return the temperature; None leaves it to the engine, which takes the likeliest token unless it thinks."""
    if request.top_p == 0 or request.others.get("top_k") == 1:
        return 0.0
    return request.temperature


def _is_greedy(request: Sampling) -> bool:
    """Whether the likeliest token is taken each time: at a temperature of 0, or because there is no other choice."""
    return not request.temperature or request.top_p == 0 or request.others.get("top_k") == 1


def to_thinking(request: Sampling, engine: str | None) -> bool | None:
    """Say whether GLM is to think before it answers; None leaves it to the policy.

    Every way in which clients of GLM, Qwen, vLLM, Ollama and OpenAI ask for it is read.

    Args:
        request: of either endpoint.
        engine: the one whose model the caller named, if it did.

    Raises:
        BadRequestError: naming the field, if thinking is asked of an engine that has none, or in a way that is unknown.
    """
    wishes: dict[str, bool] = {}
    reasoning = request.reasoning or Reasoning()
    if reasoning.max_tokens:
        raise unsupported("reasoning.max_tokens", texts.SEND_REASONING_EFFORT)
    for name, effort in (("reasoning_effort", request.reasoning_effort), ("reasoning.effort", reasoning.effort)):
        if effort is not None:
            wishes[name] = effort not in ("none", "minimal")
    kwargs = request.others.get("chat_template_kwargs") or {}
    kwargs = kwargs if isinstance(kwargs, dict) else {"": kwargs}
    flags = {
        "reasoning.enabled": reasoning.enabled,
        **{name: request.others.get(name) for name in ("thinking", "enable_thinking", "think")},
        **{f"chat_template_kwargs.{name}": value for name, value in kwargs.items()},
    }
    for name, flag in flags.items():
        if isinstance(flag, dict):
            flag = {"enabled": True, "disabled": False}.get(str(flag.get("type")), flag)
        if flag is None:
            continue
        if not isinstance(flag, bool) or name.rpartition(".")[2] not in (
            "enabled",
            "thinking",
            "enable_thinking",
            "think",
        ):
            raise unsupported(name[:64], texts.SEND_REASONING_EFFORT)
        wishes[name] = flag
    asking = [name for name, wish in wishes.items() if wish]
    if asking and engine == "owl2":
        raise unsupported(
            asking[0],
            texts.OWL2_DOES_NOT_THINK.fill(thinker=_THINKER),
        )
    return bool(asking) if wishes else None


def _to_tool_use(request: Sampling, format_param: str, json_schema: str | None) -> ToolUse | None:
    """Read what may be called; an answer is held to a schema, or may call functions, not both."""
    tool_use = to_tool_use(request)
    if tool_use is not None and json_schema is not None:
        raise unsupported(format_param, texts.TOOLS_OR_FORMAT)
    return tool_use


def check_metadata(metadata: dict[str, Any] | None) -> dict[str, str]:
    """Bound the caller's pairs as OpenAI does.

    Raises:
        BadRequestError: if there are too many, or one is too long or no text.
    """
    metadata = metadata or {}
    if len(metadata) > MAX_METADATA:
        raise unsupported("metadata", texts.METADATA_PAIRS.fill(most=MAX_METADATA))
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise BadRequestError(
                texts.METADATA_NOT_TEXT.fill(key=key[:64]), code="invalid_value", param=f"metadata.{key[:64]}"
            )
        if len(key) > 64 or len(value) > 512:
            raise unsupported(f"metadata.{key[:64]}", texts.METADATA_LENGTHS)
    return metadata
