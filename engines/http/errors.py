"""Error envelopes, and the engine error that another server's refusal stands for.

In: engine errors, or a status and a body of any server. Out: OpenAI's envelope; or an `EngineError` of the right kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from engines.base import (
    ContextLengthError,
    EngineError,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    InvalidImageError,
    InvalidRequestError,
    TooManyImagesError,
)
from engines.http.address import without_addresses
from engines.json_text import dump_line

_IMAGE_CODES: Final = (
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "invalid_image_mode",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
)
_ERRORS: Final[tuple[type[EngineError], ...]] = (
    InvalidRequestError,
    ContextLengthError,
    InvalidImageError,
    TooManyImagesError,
    EngineOverloadedError,
    EngineUnavailableError,
    EngineTimeoutError,
    GenerationFailedError,
)
_ERROR_BY_CODE: Final[dict[str, type[EngineError]]] = {
    **{error.default_code: error for error in _ERRORS},
    **dict.fromkeys(_IMAGE_CODES, InvalidImageError),
}
# A refused key, a wrong path or a wrong model name is our own configuration: the caller's request is not at fault, and
# another engine may serve it.
_ERROR_BY_STATUS: Final[dict[int, type[EngineError]]] = {
    401: EngineUnavailableError,
    402: EngineUnavailableError,
    403: EngineUnavailableError,
    404: EngineUnavailableError,
    405: EngineUnavailableError,
    408: EngineTimeoutError,
    429: EngineOverloadedError,
    502: EngineUnavailableError,
    503: EngineUnavailableError,
    504: EngineTimeoutError,
}
# In the middle of a stream there is no status; for a code that is not known, the type says whose fault it is.
_STATUS_BY_TYPE: Final = {"invalid_request_error": 400, "rate_limit_error": 429}
# Fields of a failure, in the words of several servers, that no event of an answer has beside its choices.
_REASON_FIELDS: Final = ("message", "detail", "msg", "detail_message", "error_msg", "errorMessage")
_FAILURE_WORDS: Final = frozenset((*_REASON_FIELDS, "error_code"))


def to_error(message: str, *, status_code: int, code: str, param: str | None = None) -> bytes:
    """Encode an OpenAI error envelope."""
    kind = "server_error"
    if status_code == 429:
        kind = "rate_limit_error"
    elif status_code < 500:
        kind = "invalid_request_error"
    return dump_line({"error": {"message": message, "type": kind, "param": param, "code": code}})


def to_error_event(error: EngineError) -> bytes:
    """Encode a failure in the middle of a stream, where no status can be sent any more."""
    body = to_error(error.message, status_code=error.status_code, code=error.code, param=error.param)
    return b"data: " + body + b"\n\n"


def from_error(status: int | None, body: bytes) -> EngineError:
    """Find the engine error that a refusal stands for: by its code, by known wording, else by its status.

    Args:
        status: the HTTP status; None for an error inside a stream.
        body: an envelope, an older flat error object, or anything.
    """
    envelope: Any = None
    try:
        envelope = orjson.loads(body)
    except orjson.JSONDecodeError:  # a proxy's page, or plain text
        envelope = {"message": _text_of(body)}
    details = envelope.get("error", envelope) if isinstance(envelope, dict) else None
    if not isinstance(details, dict):
        details = {"message": details}
    reason = _to_reason(next((details[field] for field in _REASON_FIELDS if details.get(field)), None))
    message = without_addresses(reason) if reason else f"The engine answered with status {status} and no reason."
    code = details.get("code")
    if status is None:
        status = code if isinstance(code, int) else _STATUS_BY_TYPE.get(str(details.get("type")), 500)
    kind = _ERROR_BY_CODE.get(code) if isinstance(code, str) else None
    kind = kind or _kind_by_wording(message, status) or _ERROR_BY_STATUS.get(status)
    if kind is None:
        kind = InvalidRequestError if 400 <= status < 500 else GenerationFailedError
    param = details.get("param")
    return kind(message, code=code if isinstance(code, str) else None, param=param if isinstance(param, str) else None)


def _to_reason(found: object) -> str:
    """Write a refusal's reason as text: FastAPI has a list of what is wrong where. A bare number or flag is none."""
    if isinstance(found, dict | list):
        return orjson.dumps(found).decode()
    return found if isinstance(found, str) and any(map(str.isalpha, found)) else ""


def _text_of(body: bytes) -> str:
    """The words of a refusal that is no JSON: its first line, or a web page's title."""
    text = body[:65536].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = " ".join(title[1].split()) if title else ""
    return text.partition("\n")[0].strip()[:300]


_CONTEXT_WORDING: Final = re.compile(
    r"context length|longer than the model's context|exceeds the maximum allowed length", re.IGNORECASE
)
_NO_PICTURE_WORDING: Final = re.compile(
    r"cannot identify image file|image file is truncated|(?:failed|unable) to (?:load|open|decode) (?:the )?image",
    re.IGNORECASE,
)


def _kind_by_wording(message: str, status: int) -> type[EngineError] | None:
    """Tell the refusals of vLLM and SGLang apart, which all come as a plain 400."""
    if status in (401, 403, 404) or not 400 <= status < 500:
        return None
    if _CONTEXT_WORDING.search(message):
        return ContextLengthError
    if re.search(r"at most \d+ image", message, re.IGNORECASE):
        return TooManyImagesError
    if _NO_PICTURE_WORDING.search(message):
        return InvalidImageError
    return None


def room_for_answer(error: EngineError) -> int | None:
    """How many tokens an answer may have, if a refusal of ``max_tokens`` tells; None if it does not, or there is none.

    vLLM refuses a bound that is over what the context has left, where an engine of ours shrinks it.
    """
    context = re.search(r"context length is (?:only )?(\d+)", error.message)
    prompt = re.search(r"(\d+) input tokens|(\d+) in the messages", error.message)
    if context is None or prompt is None:
        return None
    room = int(context[1]) - int(prompt[1] or prompt[2])
    return room if room > 0 else None


def unknown_field(error: EngineError, sent: Iterable[str]) -> str | None:
    """Which of the fields a refusal is about; None if it names none of them."""
    for field in sent:
        if error.param is not None and error.param.removeprefix("body.").split(".")[0] == field:
            return field
        if re.search(
            rf"""["'`(\[]{field}(?:["'`)\].]|$)|\b(?:argument|field|parameter|property)s?(?: supplied)?:? {field}\b""",
            error.message,
        ):
            return field
    return None


def is_failure(chunk: dict[str, Any]) -> bool:
    """Whether an event says that the answer failed: an envelope, or an older flat error object."""
    if chunk.get("error") or chunk.get("status") in ("failed", "error"):
        return True
    return "choices" not in chunk and (chunk.get("object") == "error" or not _FAILURE_WORDS.isdisjoint(chunk))


def to_envelope(payload: bytes) -> bytes:
    """Put what came as ``event: error`` into an envelope, if it is in none."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        found = _text_of(payload)
    if isinstance(found, dict) and found.get("error"):
        return payload
    return orjson.dumps({"error": found or "The engine failed."})
