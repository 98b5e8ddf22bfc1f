"""``GET /v1/jobs/{id}``: one job as operators see it.

In: a response id. Out: the record with its units, runs, failures and results.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from router.api.errors import json_response
from router.api.intake import owner, services_of
from router.api.objects import to_job_view
from router.api.responses import find

routes = APIRouter(tags=["jobs"])


@routes.get("/v1/jobs/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    """Show a job."""
    return json_response(to_job_view(await find(services_of(request), job_id, owner(request))))
