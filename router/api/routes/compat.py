"""The two older request shapes that clients of GLM-4.6V-Flash-WEB send: they run unchanged.

In: ``{"image", "prompt"}``, with or without a JSON content type. Out: a chat completion; ``/api/v1/inference`` has the
bare text beside it, as ``response`` and ``result``, where clients of that shape look for it. Asked with ``Prefer:
respond-async``, both answer 202 with the address of a job.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from engines.base import SamplingParams
from policies.features import Hints
from router.api.conversation import from_older_shape
from router.api.errors import json_response
from router.api.intake import begin, owner, parse, services_of, timed
from router.api.models import AUTO_MODEL, Target, resolve_model
from router.api.objects import to_job_view, to_poll_headers
from router.api.routes.chat import answer
from router.api.schemas import InferenceRequest, VisionRequest
from router.call import Call

routes = APIRouter(tags=["older shapes"])

RESPOND_ASYNC: Final = "respond-async"


@routes.post("/api/v1/inference")
async def inference(request: Request) -> Response:
    """Answer a question about one base64 picture."""
    caller = owner(request)
    body = await parse(request, InferenceRequest)
    return await _answer(request, caller, body, Target(None), AUTO_MODEL, extra=_with_bare_text)


@routes.post("/v1/vision/completion")
async def vision_completion(request: Request) -> Response:
    """Answer a question about one picture, given by URL or data URL."""
    caller = owner(request)
    body = await parse(request, VisionRequest)
    model = body.model or AUTO_MODEL
    target = resolve_model(model, services_of(request).monitor)
    return await _answer(request, caller, body, target, model)


async def _answer(
    request: Request, caller: str, body: InferenceRequest, target: Target, model: str, extra: Any = None
) -> Response:
    services = services_of(request)
    is_async = prefers_async(request)

    async def to_call() -> Call:
        messages, fetch_ms = await timed(from_older_shape(body, services.media), caller)
        return Call(
            messages=messages,
            sampling=SamplingParams(max_tokens=body.max_tokens, temperature=body.temperature or 0.0),
            hints=Hints(engine=target.engine),
            model=model,
            owner=caller,
            is_background=is_async,
            is_stored=is_async,
            adapter=target.adapter,
            is_watched=not is_async,
            fetch_ms=fetch_ms,
        )

    running = await begin(request, caller, to_call)
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
