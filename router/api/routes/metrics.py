"""``/metrics``: what Prometheus reads.

In: a request with an admin's key, or any on this machine where no keys are used. Out: the text of all metrics.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from router.api import texts
from router.api.intake import caller_of, services_of
from router.errors import NotFoundError

routes = APIRouter(tags=["system"])


@routes.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Show what this process and redis have counted, for Prometheus. Labels name no owner, key or request."""
    caller_of(request, "admin")
    scrape = services_of(request).scrape
    if scrape is None:
        raise NotFoundError(texts.NO_METRICS, code="metrics_off")
    text, content_type = await scrape.expose(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})
