"""The two older request shapes that clients of GLM-4.6V-Flash-WEB send: they run unchanged.

In: ``{"image", "prompt"}``, with or without a JSON content type. Out: a chat completion; ``/api/v1/inference`` has the
bare text beside it, as ``response`` and ``result``, where clients of that shape look for it. Asked with ``Prefer:
respond-async``, both answer 202 with the address of a job.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from router.api.begin import begin
from router.api.calls import to_older_call
from router.api.errors import json_response
from router.api.intake import asking, parse, services_of
from router.api.objects import to_job_view, to_poll_headers
from router.api.schemas import InferenceRequest, VisionRequest
from router.api.waiting import Extra, answer

routes = APIRouter(tags=["older shapes"])

RESPOND_ASYNC: Final = "respond-async"


@routes.post("/api/v1/inference")
async def inference(request: Request) -> Response:
    """Answer a question about one base64 picture, sent as `image`."""
    return await _answer(request, InferenceRequest, extra=_with_bare_text)


@routes.post("/v1/vision/completion")
async def vision_completion(request: Request) -> Response:
    """Answer a question about one picture, sent as `image`: a URL or a data URL."""
    return await _answer(request, VisionRequest)


async def _answer(request: Request, shape: type[InferenceRequest], extra: Extra | None = None) -> Response:
    services, caller = services_of(request), asking(request).owner
    body = await parse(request, shape)
    is_async = prefers_async(request)
    running = await begin(request, caller, lambda: to_older_call(body, caller, services, is_async=is_async))
    if is_async:
        await running.events.aclose()
        headers = {"location": f"/v1/jobs/{running.job.id}", "preference-applied": RESPOND_ASYNC}
        return json_response(to_job_view(running.job), 202, {**to_poll_headers(running.job), **headers})
    return await answer(request, running, services.settings.max_wait_s, extra)


def prefers_async(request: Request) -> bool:
    """Whether the caller would rather have a job than wait (RFC 7240); how long it would wait is not looked at."""
    wanted = ",".join(request.headers.getlist("prefer")).split(",")
    return any(each.partition(";")[0].strip().lower() == RESPOND_ASYNC for each in wanted)


def _with_bare_text(completion: dict[str, Any]) -> dict[str, Any]:
    text = completion["choices"][0]["message"]["content"]
    return {"response": text, "result": text}
