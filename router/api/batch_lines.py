"""Lines of batches: what the runner needs to know of the wire.

In: the lines of a batch's input. Out: their calls; and the answer to each as the endpoint itself would have given it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from router.api import texts
from router.api.calls import cache_use, to_call
from router.api.errors import envelope, status_of
from router.api.failures import fields_named, to_failure
from router.api.invalid import to_invalid
from router.api.objects import to_completion, to_response
from router.api.schemas import ChatRequest, ResponsesRequest
from router.audit.records import of_line
from router.batches.line_api import Answer
from router.batches.lines import LineLimits
from router.batches.records import CHAT, WINDOW_S, BatchSpec
from router.batches.run import BatchContext, Note
from router.batches.runner import BatchRunner
from router.call import Call
from router.errors import BadRequestError, RouterError
from router.jobs.job import Job
from router.lua.constants import NOBODY
from router.services import Services

Json = dict[str, Any]
LineRequest = ChatRequest | ResponsesRequest


class Lines:
    """What the runner needs to know of the wire: a line is a request like any other, but for who waits for it.

    Args:
        services: the parts the routes use too.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def read(self, endpoint: str, body: Json) -> LineRequest:
        """Validate a line's body.

        Raises:
            RouterError: for whatever is wrong with it.
        """
        model: type[LineRequest] = ChatRequest if endpoint == CHAT else ResponsesRequest
        try:
            request = model.model_validate(body)
        except ValidationError as error:
            raise to_invalid(error, body) from None
        if request.stream:
            raise BadRequestError(texts.BATCH_STREAM, code="unsupported_value", param="stream")
        return request

    async def to_call(self, request: LineRequest, spec: BatchSpec, job_id: str) -> Call:
        """Load the pictures and build the call.

        Raises:
            RouterError: for whatever is wrong with it.
        """
        services = self._services
        call = await to_call(request, spec.owner, services)
        # Until it is in the output, the answer is kept whatever the caller wants to be stored.
        # Its end is an event of the batch, not one for each of fifty thousand lines.
        call = replace(call, is_background=True, priority="batch", webhook_url=NOBODY)
        # Equal lines are common, and what they say is kept in the output anyway.
        call = replace(call, cache=cache_use(request.hybrid.cache, is_stored=request.store is not False))
        # Batch lines have limits of their own, apart from interactive requests.
        admission = services.limiter.batch_admission(spec.owner, services.authenticator.limits_of(spec.owner))
        return replace(call, response_id=job_id, keep_s=WINDOW_S, batch_id=spec.id, admission=admission)

    def to_answer(self, spec: BatchSpec, job: Job) -> Answer:
        """Return what a job that has ended amounts to."""
        try:
            if spec.endpoint == CHAT:
                if job.final is None:
                    raise to_failure(job)
                body = to_completion(job, job.final)
            else:
                if job.state in ("failed", "cancelled"):
                    with fields_named():
                        raise to_failure(job)
                body = {**to_response(job), "background": False}
        except RouterError as error:
            return self.to_refusal(spec, error)
        if not job.spec.is_stored:
            # Its record goes once the line is written: the id would lead nowhere.
            body["hybrid"]["response_id"] = None
        usage = to_response(job)["usage"]
        counts = {
            "input_tokens": usage["input_tokens"],
            "cached_tokens": usage["input_tokens_details"]["cached_tokens"],
            "output_tokens": usage["output_tokens"],
            "reasoning_tokens": usage["output_tokens_details"]["reasoning_tokens"],
        }
        return Answer(200, body, counts)

    def to_refusal(self, spec: BatchSpec, error: RouterError) -> Answer:
        """Return what a refusal at the door amounts to."""
        return Answer(status_of(error), envelope(error, wants_chinese=spec.language == "zh"))


def _to_note(services: Services) -> Note | None:
    """Return what writes down lines that have ended: no request of their own does."""
    audit, with_text = services.audit, services.settings.audit_text
    if audit is None:
        return None
    return lambda batch, custom_id, status, job: audit.add(of_line(batch, custom_id, status, job, with_text))


def make_runner(services: Services) -> BatchRunner:
    """Build what works on batches in an api process."""
    context = BatchContext(
        store=services.batches,
        files=services.files,
        jobs=services.store,
        hub=services.hub,
        dispatcher=services.dispatcher,
        api=Lines(services),
        lines_in_flight=services.settings.batch_lines_in_flight,
        line_limits=LineLimits(services.settings.max_body_bytes, services.settings.max_json_items),
        note=_to_note(services),
        traces=services.traces,
    )
    return BatchRunner(context)
