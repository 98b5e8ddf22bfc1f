"""``/v1/jobs``: jobs as operators see them: listed, looked into, begun again.

In: response ids. Out: records with their units, runs, failures and results.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from router.api import texts
from router.api.errors import json_response
from router.api.intake import admission_of, owner, services_of
from router.api.listing import Id, Search, Wanted, list_jobs, located, metadata_wanted
from router.api.objects import to_job_summary, to_job_view
from router.api.owned import find_response
from router.api.paging import Limit, to_page
from router.call import from_stored_messages, stored_image_hashes
from router.costs import to_cost
from router.errors import BadRequestError, QueueUnavailableError
from router.jobs.job import Job, JobState, Terms
from router.limits.admission import Admission
from router.redis import may_be_done
from router.services import Services

routes = APIRouter(tags=["jobs"])


@routes.get("/v1/jobs")
async def list_caller_jobs(
    request: Request,
    state: JobState | None = None,
    batch_id: Id = "",
    q: Search = "",
    after: Id = "",
    limit: Limit = 20,
) -> Response:
    """List the caller's jobs, newest first: those of requests, or those of the lines of one batch.

    `metadata[KEY]=VALUE` shows those that have that pair.
    """
    services, caller = services_of(request), owner(request, "jobs")
    wanted = Wanted(state, q, metadata_wanted(request), batch_id)
    page = await list_jobs(services, caller, wanted, after=after, limit=limit, missing=texts.NO_JOB_AFTER)
    data = [to_job_summary(job) for job in await located(services, page.jobs)]
    return json_response(to_page(data, has_more=page.has_more, last_id=page.last_id))


@routes.get("/v1/jobs/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    """Show a job."""
    return json_response(to_job_view(await find_response(services_of(request), job_id, owner(request, "jobs"))))


@routes.post("/v1/jobs/{job_id}/retry")
async def retry_job(request: Request, job_id: str) -> Response:
    """Begin a failed job again under its id: every branch, its failures forgotten. Limits count it as a new one."""
    services = services_of(request)
    job = await find_response(services, job_id, owner(request, "jobs"))
    state: str = job.state
    if state == "failed":
        admission = admission_of(request)
        terms = await _charge(services, job, admission)
        try:
            state = await services.store.retry(job, terms)
        except QueueUnavailableError as error:
            if admission is not None and may_be_done(error):
                admission.hand_over()  # then its end settles
            raise
        if state == "failed" and admission is not None:
            admission.hand_over()
    if state != "failed":
        raise BadRequestError(texts.NOT_FAILED.fill(job_id=job_id, state=state or "deleted"), code="job_not_failed")
    await services.queue.send_branches(job)
    return json_response(to_job_view(await find_response(services, job_id, owner(request, "jobs"))))


async def _charge(services: Services, job: Job, admission: Admission | None) -> Terms:
    """Charge a job as when it was new.

    Raises:
        BadRequestError: if its pictures are gone, or it is larger than a whole limit.
        RateLimitError: if a limit is reached.
    """
    hashes = stored_image_hashes(job.spec.messages)
    blobs = await services.store.get_images(hashes)
    if len(blobs) < len(set(hashes)):
        raise BadRequestError(texts.JOB_PICTURES_GONE.fill(job_id=job.id), code="image_file_not_found")
    if admission is None:
        return Terms()
    messages = from_stored_messages(job.spec.messages, blobs)
    infos = {name: services.monitor.info(name) for name in services.engines}
    cost = to_cost(messages, job.spec, infos, counts_tokens=admission.counts_tokens)
    await admission.charge(cost._replace(requests=1))  # also of a line of a batch: a client waits for it
    return Terms(admission.reservation, admission.max_unfinished_jobs)
