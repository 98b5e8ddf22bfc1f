"""``/v1/jobs``: jobs as operators see them: listed, looked into, begun again.

In: response ids. Out: records with their units, runs, failures and results.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from router.api.errors import json_response
from router.api.intake import owner, services_of
from router.api.objects import to_job_summary, to_job_view
from router.api.owned import find_response
from router.api.paging import Limit, to_page
from router.call import stored_image_hashes
from router.errors import BadRequestError
from router.jobs.job import JobState

routes = APIRouter(tags=["jobs"])


@routes.get("/v1/jobs")
async def list_jobs(
    request: Request,
    state: JobState | None = None,
    batch_id: Annotated[str, Query(max_length=128)] = "",
    after: Annotated[str, Query(max_length=128)] = "",
    limit: Limit = 20,
) -> Response:
    """List the caller's jobs, newest first: those of requests, or those of the lines of one batch."""
    page = await services_of(request).store.list_jobs(
        owner(request), batch_id=batch_id, state=state or "", after=after, limit=limit
    )
    if page is None:
        raise BadRequestError(
            f"There is no job '{after}' in the list; send the 'last_id' of the page before as 'after'.",
            code="invalid_value",
            param="after",
            message_zh=f"列表中没有任务 '{after}'；'after' 应为上一页的 'last_id'。",
        )
    data = [to_job_summary(job) for job in page.jobs]
    return json_response(to_page(data, has_more=page.has_more, last_id=page.last_id))


@routes.get("/v1/jobs/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    """Show a job."""
    return json_response(to_job_view(await find_response(services_of(request), job_id, owner(request))))


@routes.post("/v1/jobs/{job_id}/retry")
async def retry_job(request: Request, job_id: str) -> Response:
    """Begin a failed job again under its id: every branch, with its failures forgotten."""
    services = services_of(request)
    job = await find_response(services, job_id, owner(request))
    hashes = stored_image_hashes(job.spec.messages)
    if job.state == "failed" and len(await services.store.get_images(hashes)) < len(set(hashes)):
        raise BadRequestError(
            f"The pictures of '{job_id}' are no longer stored; send the request again.",
            code="image_file_not_found",
            message_zh=f"'{job_id}' 的图片已过期；请重新发送请求。",
        )
    state = await services.store.retry(job)
    if state != "failed":
        raise BadRequestError(
            f"Only a failed job can be begun again; '{job_id}' is {state or 'deleted'}.",
            code="job_not_failed",
            message_zh=f"只有失败的任务可以重试；'{job_id}' 的状态是 {state or 'deleted'}。",
        )
    await services.queue.send_branches(job)
    return json_response(to_job_view(await find_response(services, job_id, owner(request))))
