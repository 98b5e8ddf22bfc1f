"""Request fields that are not part of our shapes: which of them change nothing, and which are refused by name.

In: the fields of a body that no model declares. Out: nothing, or a `BadRequestError`. A field that would change the
answer is never ignored in silence: clients of OpenAI, vLLM, SGLang, Ollama, OpenRouter and others send many. One that
stands at the value at which it changes nothing is fine; so are names that nobody knows. Another spelling of a field
(topLogprobs, Top-Logprobs) is refused with the right one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from policies.text import Text
from router.api import texts
from router.api.picture_names import MAX_NAME, PICTURE_FIELDS, bare, names_picture
from router.api.schemas import ChatRequest, ResponsesRequest
from router.errors import BadRequestError

log = logging.getLogger(__name__)

# More of them are no slips: looking closely at what a megabyte holds would keep others waiting.
_MAX_UNKNOWN: Final = 256


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


def _named(name: str) -> Rule:
    """Refuse each value: whatever it is, it was meant for the field of that name, where 0 and false mean something."""
    return Rule(lambda value: False, texts.SEND_AS.fill(name=name))


def _is_without_bias(value: Any) -> bool:
    return isinstance(value, dict) and not any(value.values())


def _is_plain(value: Any) -> bool:
    return value in ("", "text", {"type": "text"})


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
_INSTEAD_PARTS: Final = _absent(texts.SEND_IMAGE_PARTS)
_INSTEAD_TURNS: Final = _absent(texts.SEND_TURNS)
_NO_SEARCH: Final = _absent(texts.NO_WEB_SEARCH)
_OWN_TEMPLATE: Final = _absent(texts.OWN_TEMPLATE)
_NO_TOOLS: Final = _absent(texts.NO_TOOL_FIELDS)

# Of OpenAI's own API, in either endpoint.
_OPENAI: Final[dict[str, Rule]] = {
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
    "image": _INSTEAD_PARTS,
    "suffix": _absent(),
    "echo": _only(False),
    "best_of": _only(1),
    "n": _only(1),
}
# Of servers that speak OpenAI's API with fields of their own.
_OTHERS: Final[dict[str, Rule]] = {
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
    **dict.fromkeys(("stop_sequences", "stop_strings", "stop_words", "stop_tokens", "stop_strs"), _INSTEAD_STOP),
    **dict.fromkeys(("stop_sequence", "stop_string", "stop_word", "stop_token", "stop_str"), _INSTEAD_STOP),
    **dict.fromkeys(("end_sequences", "end_sequence", "eos_token", "eos_token_id"), _INSTEAD_STOP),
    **dict.fromkeys(("bad_words", "bad_words_ids", "banned_tokens", "suppress_tokens", "negative_prompt"), _absent()),
    "guidance_scale": _only(1),
    **dict.fromkeys(("num_return_sequences", "candidate_count", "num_choices", "num_completions"), _only(1)),
    **dict.fromkeys(("num_candidates", "num_generations", "num_samples", "n_choices"), _only(1)),
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
    **dict.fromkeys(("json_schema", "response_json_schema", "output_schema", "schema"), _INSTEAD_SCHEMA),
    **dict.fromkeys(("json_mode", "json_output", "json_object"), _INSTEAD_SCHEMA),
    **dict.fromkeys(("format", "output_format", "response_type"), Rule(_is_plain, _INSTEAD_SCHEMA.advice)),
    "chat_template": _OWN_TEMPLATE,
    "prompt_template": _OWN_TEMPLATE,
    "add_generation_prompt": _only(True),
    "continue_final_message": _only(False),
    "documents": _INSTEAD_MESSAGE,
    **dict.fromkeys(("system", "system_prompt", "system_message", "system_instruction", "preamble"), _INSTEAD_MESSAGE),
    **dict.fromkeys(PICTURE_FIELDS, _INSTEAD_PARTS),
    **dict.fromkeys(("prompt_token_ids", "prompt_embeds", "input_ids", "input_embeds", "inputs"), _INSTEAD_TURNS),
    **dict.fromkeys(("contents", "chat_history", "history", "conversation_history"), _INSTEAD_TURNS),
    **dict.fromkeys(("prefill", "assistant_prefill", "response_prefix"), _INSTEAD_TURNS),
    **dict.fromkeys(("data_sources", "mcp_servers", "tool_config", "tool_resources", "connectors"), _NO_TOOLS),
    "safe_prompt": _only(False),
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
# Glowl's own, which stand in an object of theirs. OpenRouter's clients send the route "fallback", about its models.
_OWN: Final[dict[str, Rule]] = {
    **{
        each: _named(f"hybrid.{each}")
        for each in ("merge", "template", "dial", "deadline_ms", "max_wait_s", "draft", "cache")
    },
    "route": Rule(lambda value: value == "fallback", texts.SEND_AS.fill(name="hybrid.route")),
    "async": Rule(lambda value: value is False, texts.SEND_AS.fill(name="hybrid.async")),
    **dict.fromkeys(("webhook", "webhook_url", "callback_url"), _absent(texts.SET_UP_WEBHOOK)),
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
_THINKING: Final = ("thinking", "enable_thinking", "think", "chat_template_kwargs")
# Known, and the same answer whatever they say; here so that a new field of the API is decided about, not overlooked.
HARMLESS: Final[dict[str, str]] = {
    **dict.fromkeys(_THINKING, "read by `knobs.to_thinking`"),
    "user": "for the caller's own records",
    "safety_identifier": "for the caller's own records",
    "prompt_cache_key": "where a cache is looked in, not what is answered",
    "prompt_cache_options": "where a cache is looked in, not what is answered",
    "prompt_cache_retention": "where a cache is looked in, not what is answered",
    "prediction": "a guess that may make an answer faster, not another one",
    "max_tool_calls": "bounds calls of tools that a server runs itself; there are none",
    "stream_options": "how a stream is packed",
    "background_options": "how long background work may take; hybrid.deadline_ms bounds it here",
    "access_programs": "contracts with OpenAI",
}


def _by_spelling(rules: Mapping[str, Rule], read: Collection[str]) -> dict[str, Rule]:
    """Return the rules of names that are not quite those of fields, by what all their spellings have in common."""
    found = {bare(name): _named(name) for name in read}
    for name, rule in rules.items():
        found.setdefault(bare(name), rule)
    return found


_CHAT: Final = {**_OPENAI, **_OTHERS, **_OWN, **_CHAT_ONLY}
_RESPONSES: Final = {**_OPENAI, **_OTHERS, **_OWN, **_RESPONSES_ONLY}
_CHAT_SPELLINGS: Final = _by_spelling(_CHAT, (*ChatRequest.model_fields, *_THINKING))
_RESPONSES_SPELLINGS: Final = _by_spelling(_RESPONSES, (*ResponsesRequest.model_fields, *_THINKING))


def check_others(others: Mapping[str, Any], *, is_chat: bool, is_greedy: bool) -> None:
    """Refuse a field that would change the answer, if it were known here, or were spelled as it is here.

    Args:
        others: fields that the request's model does not declare. Spellings are looked at for the first 256 that are
            not known as they stand.
        is_chat: of a chat completion; else of a response.
        is_greedy: the likeliest token is taken each time.

    Raises:
        BadRequestError: naming the first such field, and what to do instead.
    """
    rules, spellings = (_CHAT, _CHAT_SPELLINGS) if is_chat else (_RESPONSES, _RESPONSES_SPELLINGS)
    unknown = 0
    for name, value in others.items():
        if value is None or name in HARMLESS:
            continue
        rule = rules.get(name)
        if rule is None:
            unknown += 1
            if unknown > _MAX_UNKNOWN or len(name) > MAX_NAME:
                continue
            rule = spellings.get(bare(name))
        if rule is None:
            log.debug("a request has the unknown field %r", name)
        elif not ((rule.is_for_sampling and is_greedy) or rule.is_neutral(value)):
            raise unsupported(name, rule.advice)


def check_older_others(others: Mapping[str, Any]) -> None:
    """Refuse a picture that is not in ``image``: the question would be answered without it.

    Args:
        others: fields that the older shapes do not declare. All but the names of pictures are ignored.

    Raises:
        BadRequestError: naming the first such field, and ``image``.
    """
    for name, value in others.items():
        if value and names_picture(name):
            raise unsupported(name, texts.SEND_IMAGE)


def unsupported(param: str, advice: Text) -> BadRequestError:
    """Make the refusal of one field."""
    return BadRequestError(
        texts.UNSUPPORTED_VALUE.fill(param=param, advice=advice),
        code="unsupported_value",
        param=param,
    )
