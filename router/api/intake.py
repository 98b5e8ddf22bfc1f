"""What every route does first: know the caller and read the body.

In: a Starlette request. Out: the application's parts, the caller, the validated body.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import json
import re
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from policies.text import Text
from router.api import texts
from router.api.invalid import to_invalid
from router.api.schemas import WireModel
from router.auth.caller import Caller, Scope
from router.errors import BadRequestError, BodyTooLargeError, PermissionDeniedError, RouterError
from router.in_flight import Share
from router.json_count import JsonCounter
from router.limits.admission import Admission
from router.services import Services

Model = TypeVar("Model", bound=WireModel)
# Some hundred turns; a shorter body is read in less than a millisecond.
_LONG_BYTES: Final = 16 * 1024
# How pydantic's reader names the two ways to send one half of a surrogate pair.
_HALF_PAIR: Final = re.compile("surrogate|unexpected end of hex escape")


def services_of(request: Request) -> Services:
    """Return the parts the application was built from."""
    services: Services = request.app.state.services
    return services


def caller_of(request: Request, scope: Scope) -> Caller:
    """Return who sent the request, if they may do what it asks for.

    Args:
        request: that came through `router.middleware.callers`.
        scope: what a key needs for this route.

    Raises:
        AuthenticationError: if a key is needed and the request has no known one.
        PermissionDeniedError: if its key is not good for this route.
        QueueUnavailableError: if it cannot be told now whether the key is known.
    """
    error: RouterError | None = getattr(request.state, "caller_error", None)
    if error is not None:
        raise error
    caller: Caller = request.state.caller
    if scope not in caller.scopes:
        raise PermissionDeniedError(texts.SCOPE_MISSING.fill(scope=scope))
    return caller


def asking(request: Request) -> Caller:
    """Return who asks something, before anything of the question is read.

    Raises:
        RateLimitError: if a limit of requests is known to be reached.
        RouterError: as `caller_of` does.
    """
    caller = caller_of(request, "ask")
    if (admission := admission_of(request)) is not None:
        admission.check()
    return caller


def admission_of(request: Request) -> Admission | None:
    """Return what a request is charged with; None if nothing limits it."""
    admission: Admission | None = getattr(request.state, "admission", None)
    return admission


def owner(request: Request, scope: Scope) -> str:
    """Return whom the request acts for; raises what `caller_of` does."""
    return caller_of(request, scope).owner


def check_declared(request: Request, limit: int) -> int:
    """Return how long the body is as the request says, before any of it is read; 0 if it does not.

    Raises:
        BodyTooLargeError: if that is over the limit.
    """
    declared = request.headers.get("content-length", "")
    num_bytes = int(declared) if declared.isdigit() else 0
    if num_bytes > limit:
        raise BodyTooLargeError(texts.BODY_TOO_LARGE.fill(limit=limit))
    return num_bytes


async def _read_body(request: Request) -> tuple[bytes, JsonCounter]:
    """Read a whole JSON body, whatever its content type says: older clients send JSON without declaring it.

    Returns:
        The body, and what it was counted by.

    Raises:
        BodyTooLargeError: as soon as it is over the limit.
        BadRequestError: as soon as it has more parts than one request can need.
        BodyTimeoutError: if it does not arrive in time.
        TooManyInFlightError: if the caller has too many bytes in flight.
        OverloadedError: if all callers together have.
    """
    settings = services_of(request).settings
    limit, counter = settings.max_body_bytes, JsonCounter(settings.max_json_items)
    share: Share = request.state.share
    await share.hold(check_declared(request, limit))
    # Grows where it is, and gives its bytes away without a copy: with pieces and then their sum, or a bytearray that a
    # parser copies, the body would be there twice.
    body = io.BytesIO()
    async for chunk in request.stream():
        if body.tell() + len(chunk) > limit:
            raise BodyTooLargeError(texts.BODY_TOO_LARGE.fill(limit=limit))
        counter.feed(chunk)
        await share.hold(body.tell() + len(chunk))
        body.write(chunk)
    return to_utf8(body.getvalue()), counter


def to_utf8(body: bytes) -> bytes:
    """Drop a byte order mark, which editors and PowerShell put in front.

    Raises:
        BadRequestError: if the text is in another encoding than JSON's own.
    """
    encoding = json.detect_encoding(body[:4])
    if encoding == "utf-8-sig":
        return body.removeprefix(codecs.BOM_UTF8)
    if encoding != "utf-8":
        raise _not_utf8(encoding.upper())
    return body


def _not_utf8(what: str | None = None) -> BadRequestError:
    return BadRequestError(
        texts.WRONG_ENCODING.fill(what=texts.ENCODED_AS.fill(encoding=what) if what else texts.NOT_UTF8),
        code="invalid_encoding",
    )


def read_json(body: bytes, counter: JsonCounter) -> Any:
    """Read a text that was counted.

    Raises:
        BadRequestError: if it is not JSON, or an object in it has a name twice.
    """
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        try:
            body.decode()
        except UnicodeDecodeError:
            raise _not_utf8() from None
        why = Text.same(str(error))
        if _HALF_PAIR.search(why.en):
            why = texts.HALF_PAIR.fill(why=why)
        raise BadRequestError(texts.INVALID_JSON.fill(why=why), code="invalid_json") from None
    counter.check_names(body, content)
    return content


async def parse(request: Request, model: type[Model], if_empty: bytes = b"") -> Model:
    """Read and validate the body.

    Args:
        request: whose body it is.
        model: its shape.
        if_empty: what an empty body stands for.

    Raises:
        BodyTooLargeError: if it is over the limit.
        BadRequestError: if it is not JSON, not of the shape, has too many parts, or an object in it has a name twice.
    """
    body, counter = await _read_body(request)
    if "idempotency-key" in request.headers:
        request.state.body = body  # compared, byte for byte, with what the key came with
    content = read_json(body or if_empty, counter)
    # In two steps: in one, what is looked at before it is validated is copied whole, and pictures are what is large.
    try:
        validated = model.model_validate(content)
    except ValidationError as error:
        raise to_invalid(error, content) from None
    if len(body) > _LONG_BYTES:
        await asyncio.sleep(0)  # thousands of turns take 50 ms to read: others have their turn before the next step
    return validated
