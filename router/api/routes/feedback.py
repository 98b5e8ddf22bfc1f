"""``/v1/responses/{id}/feedback``: what somebody thinks of an answer, kept beside it for data sets.

In: a thumb, a correction, words. Out: the same as it is kept.
"""

from __future__ import annotations

import string
import time
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response

from router.api import texts
from router.api.captured import find_captured, reaching, to_response_id
from router.api.errors import json_response
from router.api.intake import owner, parse, services_of
from router.api.schemas import FeedbackRequest
from router.errors import BadRequestError, NotFoundError
from router.loop.records import Feedback

routes = APIRouter(tags=["responses"])

_MAX_CHARS: Final = 100_000
_NO_WORDS: Final = string.whitespace + "\x00\u3000"


@routes.post("/v1/responses/{response_id}/feedback")
async def give_feedback(request: Request, response_id: str) -> Response:
    """Say what an answer is worth; a second time replaces the first. A chat completion's id will do too."""
    services, caller, name = services_of(request), owner(request, "ask"), to_response_id(response_id)
    body = await parse(request, FeedbackRequest)
    feedback = _to_feedback(body)
    await find_captured(services, name, caller)
    kept = await reaching(services.capture.say(name, caller, feedback))
    return json_response(_to_json(name, kept))


@routes.get("/v1/responses/{response_id}/feedback")
async def get_feedback(request: Request, response_id: str) -> Response:
    """Return what was said of an answer."""
    services, caller, name = services_of(request), owner(request, "ask"), to_response_id(response_id)
    await find_captured(services, name, caller)
    kept = await reaching(services.capture.ask(lambda store: store.feedback(name), None))
    if kept is None:
        raise NotFoundError(texts.NO_FEEDBACK.fill(response_id=name), code="feedback_not_found", param="response_id")
    return json_response(_to_json(name, kept))


def _to_feedback(body: FeedbackRequest) -> Feedback:
    """Return what was said.

    Raises:
        BadRequestError: if nothing was, or too much.
    """
    comment, correction = (body.comment or "").strip(_NO_WORDS), body.correction
    if isinstance(correction, str) and not correction.strip(_NO_WORDS):
        correction = None  # as an empty box of a form is sent; it would count as the right answer
    if body.rating is None and correction is None and not body.fields and not comment:
        raise BadRequestError(texts.EMPTY_FEEDBACK, code="missing_required_parameter", param="rating")
    sizes = {
        "correction": len(orjson.dumps(correction)),
        "fields": len(orjson.dumps(body.fields)),
        "comment": len(comment),
    }
    for param, size in sizes.items():
        if size > _MAX_CHARS:
            text = texts.FEEDBACK_TOO_LONG.fill(param=param, limit=_MAX_CHARS)
            raise BadRequestError(text, code="string_above_max_length", param=param)
    return Feedback(body.rating, correction, body.fields or {}, comment, time.time())


def _to_json(response_id: str, feedback: Feedback) -> dict[str, Any]:
    return {
        "object": "response.feedback",
        "response_id": response_id,
        "rating": feedback.rating,
        "correction": feedback.correction,
        "fields": dict(feedback.fields),
        "comment": feedback.comment,
        "created_at": int(feedback.at),
    }
