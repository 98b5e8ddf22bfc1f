"""Checks that need more than one field, or the settings.

In: parts of a validated body. Out: nothing, or what is used further; a `BadRequestError` names the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.api.models import AUTO_MODEL
from router.api.schemas import Hybrid
from router.dispatch import check_num_chars
from router.errors import BadRequestError
from router.fetch import UrlRefusedError, parse_url
from router.output_format import OutputFormat
from router.settings import Settings


def check_format(output_format: OutputFormat | None, engine: str | None, hybrid: Hybrid, param: str) -> None:
    """Refuse what would leave the JSON to an engine that cannot be held to it.

    Raises:
        BadRequestError: if Owl2 is named, or is to have the last word.
    """
    if output_format is None:
        if hybrid.merge == "fields":
            raise BadRequestError(
                f"Only JSON answers have fields: send '{param}' or 'hybrid.template' with hybrid.merge 'fields'.",
                code="unsupported_value",
                param="hybrid.merge",
                message_zh="只有 JSON 回答才有字段：使用 hybrid.merge 'fields' 时，"
                f"请同时发送 '{param}' 或 'hybrid.template'。",
            )
        return
    if output_format.template is not None:
        param = "hybrid.template"
    if engine == "owl2":
        raise BadRequestError(
            f"mplug-owl2 cannot hold its answers to a JSON Schema: leave '{param}' out, or send model '{AUTO_MODEL}' "
            "or 'glm-4.6v-flash'.",
            code="unsupported_value",
            param=param,
            message_zh=f"mplug-owl2 不能按 JSON Schema 回答：请去掉 '{param}'，"
            f"或使用模型 '{AUTO_MODEL}'、'glm-4.6v-flash'。",
        )
    if hybrid.merge == "deep":
        raise BadRequestError(
            f"With '{param}' the final answer is not mplug-owl2's, which cannot hold it to a JSON Schema: leave "
            "'hybrid.merge' out or send 'compose' or 'fields'.",
            code="unsupported_value",
            param="hybrid.merge",
            message_zh=f"使用 '{param}' 时最终回答不能由 mplug-owl2 给出（它不能按 JSON Schema 回答）："
            "请去掉 'hybrid.merge' 或改为 'compose'、'fields'。",
        )


def check_text(messages: str | Iterable[Any], settings: Settings) -> None:
    """Refuse more text than any engine could read, before it is copied into a conversation.

    Args:
        messages: a text, or wire messages with a ``content``.
        settings: with the limit.

    Raises:
        BadRequestError: if it is longer.
    """
    contents = [messages] if isinstance(messages, str) else [getattr(each, "content", None) for each in messages]
    num_chars = 0
    for content in contents:
        texts = [content] if isinstance(content, str) else [getattr(part, "text", None) for part in content or ()]
        num_chars += sum(len(text) for text in texts if isinstance(text, str))
    check_num_chars(num_chars, settings.max_text_chars)


def webhook_url_of(metadata: dict[str, str], settings: Settings) -> str | None:
    """Return where the caller wants to be told.

    Raises:
        BadRequestError: if nothing can be posted there.
    """
    url = metadata.get("webhook_url")
    return None if url is None else check_webhook_url(url, "metadata.webhook_url", settings)


def check_webhook_url(url: str, param: str, settings: Settings) -> str:
    """Return a URL that events can be posted to; where its name leads is looked at whenever something is posted.

    Raises:
        BadRequestError: naming the field, if it is no http(s) URL or its host is not allowed.
    """
    try:
        parse_url(url, allow_private=settings.allow_private_urls)
    except UrlRefusedError:
        where, where_zh = ("", "") if settings.allow_private_urls else (" to a public host", "公网")
        raise BadRequestError(
            f"'{param}' must be an http(s) URL{where}, without a user name or password inside, "
            "such as https://example.com/hooks.",
            code="invalid_url",
            param=param,
            message_zh=f"'{param}' 必须是{where_zh} http(s) 地址，且不含用户名或密码，例如 https://example.com/hooks。",
        ) from None
    return url.strip()
