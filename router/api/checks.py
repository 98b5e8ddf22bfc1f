"""Checks that need more than one field, or the settings.

In: parts of a validated body. Out: nothing, or what is used further; a `BadRequestError` names the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from policies.text import NOTHING
from router.api import texts
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
                texts.FIELDS_NEED_FORMAT.fill(param=param), code="unsupported_value", param="hybrid.merge"
            )
        return
    if output_format.template is not None:
        param = "hybrid.template"
    if engine == "owl2":
        raise BadRequestError(
            texts.NO_SCHEMA_OF_OWL2.fill(param=param, auto_model=AUTO_MODEL), code="unsupported_value", param=param
        )
    if hybrid.merge == "deep":
        raise BadRequestError(
            texts.NO_SCHEMA_FOR_MERGE.fill(param=param), code="unsupported_value", param="hybrid.merge"
        )


def check_text(messages: str | Iterable[Any], settings: Settings) -> None:
    """Refuse more text than any engine could read, before it is copied into a conversation.

    Args:
        messages: a text, or wire messages with a ``content``.
        settings: with the limit.

    Raises:
        BadRequestError: if it is longer.
    """
    contents = [messages] if isinstance(messages, str) else [_content_of(each) for each in messages]
    num_chars = 0 if isinstance(messages, str) else sum(map(_num_chars_called, messages))
    for content in contents:
        texts = [content] if isinstance(content, str) else [getattr(part, "text", None) for part in content or ()]
        num_chars += sum(len(text) for text in texts if isinstance(text, str))
    check_num_chars(num_chars, settings.max_text_chars)


def _content_of(message: Any) -> Any:
    """Return what a turn says, or what a function returned."""
    return getattr(message, "content", None) or getattr(message, "output", None)


def _num_chars_called(message: Any) -> int:
    """Count the characters of a turn's calls."""
    calls = [call.function.arguments for call in getattr(message, "tool_calls", None) or ()]
    return sum(map(len, calls)) + len(getattr(message, "arguments", None) or "")


def webhook_url_of(metadata: dict[str, str], settings: Settings) -> str | None:
    """Return where the caller wants to be told.

    Raises:
        BadRequestError: if nothing can be posted there.
    """
    url = metadata.get("webhook_url")
    return None if url is None else check_webhook_url(url, "metadata.webhook_url", settings)


def _is_private(url: str) -> bool:
    """Say whether a refused URL would do if inner addresses were allowed."""
    try:
        parse_url(url, allow_private=True)
    except UrlRefusedError:
        return False
    return True


def check_webhook_url(url: str, param: str, settings: Settings) -> str:
    """Return a URL that events can be posted to; where its name leads is looked at whenever something is posted.

    Raises:
        BadRequestError: naming the field, if it is no http(s) URL or its host is not allowed.
    """
    try:
        parse_url(url, allow_private=settings.allow_private_urls)
    except UrlRefusedError:
        where = NOTHING if settings.allow_private_urls else texts.PUBLIC
        hint = texts.PRIVATE_HINT if not settings.allow_private_urls and _is_private(url) else NOTHING
        raise BadRequestError(
            texts.INVALID_WEBHOOK_URL.fill(param=param, where=where, hint=hint), code="invalid_url", param=param
        ) from None
    return url.strip()
