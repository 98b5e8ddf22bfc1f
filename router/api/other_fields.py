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

from router.errors import BadRequestError

log = logging.getLogger(__name__)

# Clients of Google's API and many written in JavaScript spell stopSequences what others spell stop_sequences.
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Rule:
    """When a field is refused.

    Attributes:
        is_neutral: whether a value changes nothing.
        advice: what to do instead, in English.
        advice_zh: the same in Chinese.
        is_for_sampling: the field chooses among likely tokens; a greedy answer does not depend on it.
    """

    is_neutral: Callable[[Any], bool]
    advice: str
    advice_zh: str
    is_for_sampling: bool = False


def _only(*values: Any, is_for_sampling: bool = False) -> Rule:
    """Accept some values: those at which the field changes nothing."""
    shown = " or ".join(_shown(value) for value in values)
    shown_zh = " 或 ".join(_shown(value) for value in values)
    return Rule(
        lambda value: any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values),
        f"it is not available; leave it out or send {shown}",
        f"不支持该功能；请去掉，或设为 {shown_zh}",
        is_for_sampling,
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else str(value)


def _absent(instead: str = "leave it out", instead_zh: str = "请去掉") -> Rule:
    """Accept nothing, or what is empty."""
    return Rule(lambda value: value in ("", False) or value == [] or value == {}, instead, instead_zh)


def _is_without_bias(value: Any) -> bool:
    return isinstance(value, dict) and not any(value.values())


def _is_text_only(value: Any) -> bool:
    return value in ([], ["text"])


_INSTEAD_SCHEMA: Final = _absent(
    "answers can be held to a JSON Schema only; send response_format of type 'json_schema', for a choice with an enum",
    "回答只能按 JSON Schema 约束；请使用 response_format 的 'json_schema'，限定选项请用 enum",
)
_INSTEAD_MESSAGE: Final = _absent(
    "send it as a message of role 'system' or 'user'", "请作为 role 为 'system' 或 'user' 的消息发送"
)
_INSTEAD_STOP: Final = _absent("send stop strings as 'stop'", "请用 'stop' 发送停止字符串")
_INSTEAD_LENGTH: Final = _absent(
    "send max_completion_tokens, or max_output_tokens in a response",
    "请使用 max_completion_tokens，在 responses 中使用 max_output_tokens",
)
_INSTEAD_ADAPTER: Final = _absent("name an adapter behind a colon of 'model'", "请在 'model' 的冒号后指定适配器")
_INSTEAD_FIELDS: Final = _absent("send each option as a field of its own", "请把各选项作为单独的字段发送")
_NO_SEARCH: Final = _absent("there is no web search; leave it out", "不支持联网搜索；请去掉")
_OWN_TEMPLATE: Final = _absent("the model's own template is used", "只使用模型自带的模板")
_NO_TOOLS: Final = _absent("tool calls are not available; leave it out", "不支持工具调用；请去掉")

# Of OpenAI's own API, in either endpoint.
_OPENAI: Final[dict[str, Rule]] = {
    "frequency_penalty": _only(0),
    "presence_penalty": _only(0),
    "logit_bias": Rule(_is_without_bias, "leave it out", "请去掉"),
    "modalities": Rule(
        _is_text_only, "answers are text; leave it out or send ['text']", "只支持文本；请去掉或设为 ['text']"
    ),
    "audio": _absent("answers are text; leave it out", "只支持文本；请去掉"),
    "web_search_options": _NO_SEARCH,
    "moderation": _absent(),
    "truncation": Rule(
        lambda value: value == "disabled",
        "nothing is dropped from a conversation; leave it out or send 'disabled', and shorten the input",
        "对话内容不会被自动截断；请去掉或设为 'disabled'，并自行缩短输入",
    ),
    "verbosity": Rule(
        lambda value: value == "medium",
        "leave it out or send 'medium', and say in the question how long the answer is to be",
        "请去掉或设为 'medium'，并在问题中说明需要的篇幅",
    ),
    "prompt": _absent(
        "stored prompts are not available; send messages or input", "不支持已存储的 prompt；请发送 messages 或 input"
    ),
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
        "leave it out, and send a temperature above 0 to sample",
        "请去掉；需要采样时请将 temperature 设为大于 0",
    ),
    "topP": Rule(lambda value: value == 1 and not isinstance(value, bool), "send top_p", "请使用 top_p"),
    "topK": Rule(
        lambda value: value in (-1, 0) and not isinstance(value, bool),
        "leave it out, and send top_p to choose among fewer tokens",
        "请去掉；需要缩小候选范围时请使用 top_p",
    ),
    "allowed_token_ids": _absent(),
    "logits_processors": _absent(),
    "custom_logit_processor": _absent(),
    "custom_params": _absent(),
    "vllm_xargs": _absent(),
    "prompt_logprobs": _absent("send logprobs for the tokens of the answer", "请用 logprobs 获取回答中各 token 的概率"),
    "truncate_prompt_tokens": _absent("shorten the messages yourself", "请自行缩短消息"),
    **dict.fromkeys(("max_tokens_to_sample", "num_predict", "n_predict", "max_new_tokens"), _INSTEAD_LENGTH),
    **dict.fromkeys(("max_length", "maxTokens", "maxOutputTokens", "maxCompletionTokens"), _INSTEAD_LENGTH),
    "num_ctx": _absent("the context is the model's own; leave it out", "上下文长度由模型决定；请去掉"),
    "random_seed": _absent("send seed", "请使用 seed"),
    "guided_regex": _INSTEAD_SCHEMA,
    "guided_choice": _INSTEAD_SCHEMA,
    "guided_grammar": _INSTEAD_SCHEMA,
    "guided_whitespace_pattern": _INSTEAD_SCHEMA,
    "guided_decoding": _INSTEAD_SCHEMA,
    "response_schema": _INSTEAD_SCHEMA,
    "response_mime_type": Rule(lambda value: value == "text/plain", _INSTEAD_SCHEMA.advice, _INSTEAD_SCHEMA.advice_zh),
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
    "images": _absent("send pictures as image_url parts of a message", "请在消息中以 image_url 发送图片"),
    "mm_processor_kwargs": _absent(),
    **dict.fromkeys(("lora_path", "lora_name", "lora_request", "adapter_id"), _INSTEAD_ADAPTER),
    **dict.fromkeys(("options", "extra_body", "generation_config", "nvext", "output_config"), _INSTEAD_FIELDS),
    "thinking_budget": _absent("send reasoning_effort", "请使用 reasoning_effort"),
    "enable_search": _only(False),
    "web_search": _NO_SEARCH,
    "search_parameters": Rule(lambda value: value in ({}, {"mode": "off"}), _NO_SEARCH.advice, _NO_SEARCH.advice_zh),
    "plugins": _absent(),
    "transforms": _absent("shorten the messages yourself", "请自行缩短消息"),
    "models": _absent("one 'model' is asked", "只接受一个 'model'"),
    "return_token_ids": _only(False),
    "return_tokens_as_token_ids": _only(False),
}
# What the other endpoint calls so.
_CHAT_ONLY: Final[dict[str, Rule]] = {
    "max_output_tokens": _absent("send max_completion_tokens", "请使用 max_completion_tokens"),
    "instructions": _INSTEAD_MESSAGE,
    "input": _absent("send messages", "请使用 messages"),
    "text": _absent("send response_format", "请使用 response_format"),
    "previous_response_id": _absent("send the whole conversation as messages", "请在 messages 中发送整个对话"),
    "conversation": _absent("send the whole conversation as messages", "请在 messages 中发送整个对话"),
    "background": _only(False),
}
_RESPONSES_ONLY: Final[dict[str, Rule]] = {
    "max_tokens": _absent("send max_output_tokens", "请使用 max_output_tokens"),
    "max_completion_tokens": _absent("send max_output_tokens", "请使用 max_output_tokens"),
    "messages": _absent("send input", "请使用 input"),
    "response_format": _absent("send text.format", "请使用 text.format"),
    "functions": _NO_TOOLS,
    "guided_json": _absent("send text.format", "请使用 text.format"),
    "structured_outputs": _absent("send text.format", "请使用 text.format"),
    "logprobs": _absent("send top_logprobs", "请使用 top_logprobs"),
    "stop": _absent("stop strings are part of chat completions", "停止字符串请用于 chat completions"),
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
        raise unsupported(name, rule.advice, rule.advice_zh)


def unsupported(param: str, advice: str, advice_zh: str = "") -> BadRequestError:
    """Make the refusal of one field."""
    return BadRequestError(
        f"Unsupported value for '{param}': {advice}.",
        code="unsupported_value",
        param=param,
        message_zh=f"不支持参数 '{param}' 的这个取值：{advice_zh or advice}。",
    )
