"""Refusals as clients of Anthropic read them.

In: an error in OpenAI's envelope, and the path of its request. Out: Anthropic's envelope, if the path is Anthropic's.
"""

from __future__ import annotations

from typing import Any, Final

PATH: Final = "/v1/messages"
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_anthropic(path: str) -> bool:
    """Whether clients of Anthropic ask here."""
    return path == PATH or path.startswith(f"{PATH}/")


def to_error(body: dict[str, Any], status: int, request_id: str) -> dict[str, Any]:
    """Return an error as Anthropic has it; ``code`` and ``param``, which that does not know, stay beside its fields.

    Args:
        body: the error in OpenAI's envelope.
        status: of the answer.
        request_id: of the request.
    """
    error = body["error"]
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    shown = {"type": kind, "message": error["message"], "code": error["code"], "param": error["param"]}
    return {"type": "error", "error": shown, "request_id": request_id or None}
