"""The one place where errors become HTTP: every refusal leaves as an OpenAI error envelope, or as Anthropic's there.

In: `RouterError`, validation errors, framework errors, anything unforeseen. Out: status, headers and
``{"error": {"message", "type", "param", "code"}}`` in English or, if ``Accept-Language`` prefers it, Chinese.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Match

from engines.base import EngineError
from engines.json_text import dump_line
from policies.text import Text
from router.api import texts
from router.api.anthropic.errors import is_anthropic, to_error
from router.api.hangups import ClientGoneError
from router.api.invalid import to_invalid_query
from router.errors import CLIENT_CLOSED, EngineFailedError, RateLimitError, RouterError
from router.failover import to_router_error

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(RouterError, _on_router_error)
    app.add_exception_handler(EngineError, _on_engine_error)
    app.add_exception_handler(RequestValidationError, _on_wrong_query)
    app.add_exception_handler(HTTPException, _on_http_error)
    for gone in (ClientDisconnect, ClientGoneError):
        app.add_exception_handler(gone, _on_client_gone)
    app.add_exception_handler(Exception, _on_bug_outside)


def envelope(error: RouterError, *, wants_chinese: bool = False) -> dict[str, Any]:
    """Return the body of an error."""
    return {
        "error": {
            "message": error.message_zh if wants_chinese else error.message,
            "type": _type_of(error),
            "param": error.param,
            "code": error.code,
        }
    }


def status_of(error: RouterError) -> int:
    """Return the HTTP status of an error."""
    return error.status if isinstance(error, EngineFailedError) else error.status_code


def wants_chinese(request: HTTPConnection) -> bool:
    """Whether ``Accept-Language`` puts Chinese before English; without the header it does not."""
    ranked: list[tuple[float, str]] = []
    for entry in request.headers.get("accept-language", "").split(","):
        language, _, quality = entry.strip().partition(";q=")
        try:
            ranked.append((float(quality or 1.0), language.lower()))
        except ValueError:
            continue
    ranked.sort(key=lambda item: -item[0])
    for _quality, language in ranked:
        if language.startswith("zh"):
            return True
        if language.startswith("en"):
            return False
    return False


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Serialise once."""
    return Response(dump_line(body), status, headers, "application/json")


def respond(request: Request, error: RouterError) -> Response:
    """Return a refusal as a response."""
    status = status_of(error)
    request.state.error_code = error.code  # for the audit log
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(error.retry_after_s, 1))
        if isinstance(error, RateLimitError):
            headers["retry-after-ms"] = str(max(error.retry_after_ms, 1))
    elif status >= 500 or status in (408, 409, 429):
        # Clients of OpenAI repeat these by themselves; without a time to wait for it would not help.
        headers["x-should-retry"] = "false"
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="glowl"'
    if status == 408:  # the rest of the body may still come, or never
        headers["connection"] = "close"
    body = envelope(error, wants_chinese=wants_chinese(request))
    if is_anthropic(request.url.path):
        body = to_error(body, status, getattr(request.state, "request_id", ""))
    return json_response(body, status, headers)


async def _on_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    return respond(request, error)


async def _on_engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return respond(request, to_router_error(error))


async def _on_wrong_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return respond(request, to_invalid_query(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {
        404: ("not_found", texts.NO_PATH),
        405: ("method_not_allowed", texts.NO_METHOD),
        413: ("request_too_large", texts.TOO_LARGE),
    }
    code, said = known.get(error.status_code, ("http_error", Text.same(str(error.detail))))
    if error.status_code in known:
        said = said.fill(path=request.url.path, method=request.method)
    response = respond(request, EngineFailedError(said, status=error.status_code, code=code))
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(_methods_of(request))
    return response


def _methods_of(request: Request) -> list[str]:
    """Return every method of the path: Starlette names those of the first route with this path only."""
    methods: set[str] = set()
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            methods.add(method)
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)  # only for the log: the client has disconnected


async def answer_bug(request: Request, error: Exception) -> Response:
    """Return the answer to an unforeseen error, and log it."""
    return respond(request, to_refusal(error, f"{request.method} {request.url.path}"))


async def _on_bug_outside(request: Request, error: Exception) -> Response:
    """Answer for a bug in a middleware: no other one sees this answer, and the connection ends."""
    response = await answer_bug(request, error)
    response.headers["connection"] = "close"
    if request_id := request.scope.get("state", {}).get("request_id"):
        response.headers["x-request-id"] = request_id
    return response


def to_refusal(error: Exception, what: str) -> RouterError:
    """Return the refusal that an error amounts to; what was not raised on purpose is logged and not told."""
    if isinstance(error, RouterError):
        return error
    if isinstance(error, EngineError):
        return to_router_error(error)
    log.error("unhandled error at %s", what, exc_info=error)
    return EngineFailedError(texts.SERVER_FAILED, status=500, code="server_error")


def _type_of(error: RouterError) -> str:
    status = status_of(error)
    if isinstance(error, EngineFailedError) or status >= 500:
        return "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return error.type
