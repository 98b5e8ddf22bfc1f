"""Request fields that are not part of our shapes: which of them change nothing, and which are refused by name.

In: the fields of a body that no model declares. Out: nothing, or a `BadRequestError`. A field that would change the
answer is never ignored in silence: clients of OpenAI, vLLM, SGLang, Ollama, OpenRouter and others send many. One that
stands at the value at which it changes nothing is fine; so are names that nobody knows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from policies.text import Text
from router.api import texts
from router.errors import BadRequestError

log = logging.getLogger(__name__)

# Clients of Google's API and many written in JavaScript spell stopSequences what others spell stop_sequences.
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Rule:
    """When a field is refused.

    Attributes:
        is_neutral: whether a value changes nothing.
        advice: what to do instead.
        is_for_sampling: the field chooses among likely tokens; a greedy answer does not depend on it.
    """

    is_neutral: Callable[[Any], bool]
    advice: Text
    is_for_sampling: bool = False


def _only(*values: Any, is_for_sampling: bool = False) -> Rule:
    """Accept some values: those at which the field changes nothing."""
    shown = texts.OR.join(Text.same(_shown(value)) for value in values)
    return Rule(
        lambda value: any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values),
        texts.NOT_AVAILABLE.fill(shown=shown),
        is_for_sampling,
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else str(value)


def _absent(instead: Text = texts.LEAVE_IT_OUT) -> Rule:
    """Accept nothing, or what is empty."""
    return Rule(lambda value: value in ("", False) or value == [] or value == {}, instead)


def _is_without_bias(value: Any) -> bool:
    return isinstance(value, dict) and not any(value.values())


def _is_text_only(value: Any) -> bool:
    return value in ([], ["text"])


_INSTEAD_SCHEMA: Final = _absent(
    texts.JSON_SCHEMA_ONLY,
)
_INSTEAD_MESSAGE: Final = _absent(texts.SEND_SYSTEM_MESSAGE)
_INSTEAD_STOP: Final = _absent(texts.SEND_STOP)
_INSTEAD_LENGTH: Final = _absent(
    texts.SEND_MAX_TOKENS_OF_EITHER,
)
_INSTEAD_ADAPTER: Final = _absent(texts.NAME_ADAPTER)
_INSTEAD_FIELDS: Final = _absent(texts.SEND_OPTIONS_APART)
_NO_SEARCH: Final = _absent(texts.NO_WEB_SEARCH)
_OWN_TEMPLATE: Final = _absent(texts.OWN_TEMPLATE)
_NO_TOOLS: Final = _absent(texts.NO_TOOL_FIELDS)

# Of OpenAI's own API, in either endpoint.
_OPENAI: Final[dict[str, Rule]] = {
    "frequency_penalty": _only(0),
    "presence_penalty": _only(0),
    "logit_bias": Rule(_is_without_bias, texts.LEAVE_IT_OUT),
    "modalities": Rule(_is_text_only, texts.TEXT_MODALITY),
    "audio": _absent(texts.TEXT_ONLY),
    "web_search_options": _NO_SEARCH,
    "moderation": _absent(),
    "truncation": Rule(
        lambda value: value == "disabled",
        texts.NO_TRUNCATION,
    ),
    "verbosity": Rule(
        lambda value: value == "medium",
        texts.NO_VERBOSITY,
    ),
    "prompt": _absent(texts.NO_STORED_PROMPTS),
    "context_management": _absent(),
    "image": _absent(),
    "suffix": _absent(),
    "echo": _only(False),
    "best_of": _only(1),
    "n": _only(1),
}
# Of servers that speak OpenAI's API with fields of their own.
_OTHERS: Final[dict[str, Rule]] = {
    "repetition_penalty": _only(1),
    "repeat_penalty": _only(1),
    "length_penalty": _only(1),
    "no_repeat_ngram_size": _only(0),
    "dry_multiplier": _only(0),
    "mirostat": _only(0),
    "mirostat_mode": _only(0),
    "use_beam_search": _only(False),
    "num_beams": _only(1),
    "early_stopping": _only(False),
    "top_k": _only(-1, 0, 1, is_for_sampling=True),
    "min_p": _only(0, is_for_sampling=True),
    "typical_p": _only(1, is_for_sampling=True),
    "top_a": _only(0, is_for_sampling=True),
    "tfs_z": _only(1, is_for_sampling=True),
    "tfs": _only(1, is_for_sampling=True),
    "epsilon_cutoff": _only(0, is_for_sampling=True),
    "eta_cutoff": _only(0, is_for_sampling=True),
    "xtc_probability": _only(0, is_for_sampling=True),
    "dynatemp_range": _only(0, is_for_sampling=True),
    "min_tokens": _only(0),
    "min_new_tokens": _only(0),
    "min_length": _only(0),
    "ignore_eos": _only(False),
    "include_stop_str_in_output": _only(False),
    "no_stop_trim": _only(False),
    "skip_special_tokens": _only(True),
    "stop_token_ids": _INSTEAD_STOP,
    "stop_regex": _INSTEAD_STOP,
    **dict.fromkeys(("stop_sequences", "stop_strings", "stop_words"), _INSTEAD_STOP),
    **dict.fromkeys(("bad_words", "bad_words_ids", "banned_tokens", "suppress_tokens", "negative_prompt"), _absent()),
    "guidance_scale": _only(1),
    "num_return_sequences": _only(1),
    "do_sample": Rule(
        lambda value: value is False,
        texts.SAMPLE_BY_TEMPERATURE,
    ),
    "topP": Rule(lambda value: value == 1 and not isinstance(value, bool), texts.SEND_TOP_P),
    "topK": Rule(
        lambda value: value in (-1, 0) and not isinstance(value, bool),
        texts.CHOOSE_BY_TOP_P,
    ),
    "allowed_token_ids": _absent(),
    "logits_processors": _absent(),
    "custom_logit_processor": _absent(),
    "custom_params": _absent(),
    "vllm_xargs": _absent(),
    "prompt_logprobs": _absent(texts.SEND_LOGPROBS_OF_ANSWER),
    "truncate_prompt_tokens": _absent(texts.SHORTEN_MESSAGES),
    **dict.fromkeys(("max_tokens_to_sample", "num_predict", "n_predict", "max_new_tokens"), _INSTEAD_LENGTH),
    **dict.fromkeys(("max_length", "maxTokens", "maxOutputTokens", "maxCompletionTokens"), _INSTEAD_LENGTH),
    "num_ctx": _absent(texts.OWN_CONTEXT),
    "random_seed": _absent(texts.SEND_SEED),
    "guided_regex": _INSTEAD_SCHEMA,
    "guided_choice": _INSTEAD_SCHEMA,
    "guided_grammar": _INSTEAD_SCHEMA,
    "guided_whitespace_pattern": _INSTEAD_SCHEMA,
    "guided_decoding": _INSTEAD_SCHEMA,
    "response_schema": _INSTEAD_SCHEMA,
    "response_mime_type": Rule(lambda value: value == "text/plain", _INSTEAD_SCHEMA.advice),
    "structural_tag": _INSTEAD_SCHEMA,
    "regex": _INSTEAD_SCHEMA,
    "ebnf": _INSTEAD_SCHEMA,
    "grammar": _INSTEAD_SCHEMA,
    "json_schema": _INSTEAD_SCHEMA,
    "format": _INSTEAD_SCHEMA,
    "chat_template": _OWN_TEMPLATE,
    "prompt_template": _OWN_TEMPLATE,
    "add_generation_prompt": _only(True),
    "continue_final_message": _only(False),
    "documents": _INSTEAD_MESSAGE,
    **dict.fromkeys(("system", "system_prompt", "system_instruction", "preamble"), _INSTEAD_MESSAGE),
    "images": _absent(texts.SEND_IMAGE_PARTS),
    "mm_processor_kwargs": _absent(),
    **dict.fromkeys(("lora_path", "lora_name", "lora_request", "adapter_id"), _INSTEAD_ADAPTER),
    **dict.fromkeys(("options", "extra_body", "generation_config", "nvext", "output_config"), _INSTEAD_FIELDS),
    "thinking_budget": _absent(texts.SEND_REASONING_EFFORT),
    "enable_search": _only(False),
    "web_search": _NO_SEARCH,
    "search_parameters": Rule(lambda value: value in ({}, {"mode": "off"}), _NO_SEARCH.advice),
    "plugins": _absent(),
    "transforms": _absent(texts.SHORTEN_MESSAGES),
    "models": _absent(texts.ONE_MODEL),
    "return_token_ids": _only(False),
    "return_tokens_as_token_ids": _only(False),
}
# What the other endpoint calls so.
_CHAT_ONLY: Final[dict[str, Rule]] = {
    "max_output_tokens": _absent(texts.SEND_MAX_COMPLETION_TOKENS),
    "instructions": _INSTEAD_MESSAGE,
    "input": _absent(texts.SEND_MESSAGES),
    "text": _absent(texts.SEND_RESPONSE_FORMAT),
    "previous_response_id": _absent(texts.SEND_WHOLE_CONVERSATION),
    "conversation": _absent(texts.SEND_WHOLE_CONVERSATION),
    "background": _only(False),
}
_RESPONSES_ONLY: Final[dict[str, Rule]] = {
    "max_tokens": _absent(texts.SEND_MAX_OUTPUT_TOKENS),
    "max_completion_tokens": _absent(texts.SEND_MAX_OUTPUT_TOKENS),
    "messages": _absent(texts.SEND_INPUT),
    "response_format": _absent(texts.SEND_TEXT_FORMAT),
    "functions": _NO_TOOLS,
    "guided_json": _absent(texts.SEND_TEXT_FORMAT),
    "structured_outputs": _absent(texts.SEND_TEXT_FORMAT),
    "logprobs": _absent(texts.SEND_TOP_LOGPROBS),
    "stop": _absent(texts.STOP_IS_OF_CHAT),
}
# Known, and the same answer whatever they say; here so that a new field of the API is decided about, not overlooked.
HARMLESS: Final[dict[str, str]] = {
    **dict.fromkeys(("thinking", "enable_thinking", "think", "chat_template_kwargs"), "read by `knobs.to_thinking`"),
    "user": "for the caller's own records",
    "safety_identifier": "for the caller's own records",
    "prompt_cache_key": "where a cache is looked in, not what is answered",
    "prompt_cache_options": "where a cache is looked in, not what is answered",
    "prompt_cache_retention": "where a cache is looked in, not what is answered",
    "prediction": "a guess that may make an answer faster, not another one",
    "parallel_tool_calls": "there are no tool calls",
    "max_tool_calls": "there are no tool calls",
    "stream_options": "how a stream is packed",
    "background_options": "how long background work may take; hybrid.deadline_ms bounds it here",
    "access_programs": "contracts with OpenAI",
}


def check_others(others: Mapping[str, Any], *, is_chat: bool, is_greedy: bool) -> None:
    """Refuse a field that would change the answer, if it were known here.

    Args:
        others: fields that the request's model does not declare.
        is_chat: of a chat completion; else of a response.
        is_greedy: the likeliest token is taken each time.

    Raises:
        BadRequestError: naming the first such field, and what to do instead.
    """
    rules = {**_OPENAI, **_OTHERS, **(_CHAT_ONLY if is_chat else _RESPONSES_ONLY)}
    for name, value in others.items():
        rule = rules.get(name) or rules.get(_HUMP.sub("_", name).lower())
        if rule is None:
            if name not in HARMLESS:
                log.debug("a request has the unknown field %r", name[:64])
            continue
        if value is None or (rule.is_for_sampling and is_greedy) or rule.is_neutral(value):
            continue
        raise unsupported(name, rule.advice)


def unsupported(param: str, advice: Text) -> BadRequestError:
    """Make the refusal of one field."""
    return BadRequestError(
        texts.UNSUPPORTED_VALUE.fill(param=param, advice=advice),
        code="unsupported_value",
        param=param,
    )
