"""``/`` and ``/ui``: the page, as files; what it shows it gets from the API, as every other client does.

In: a browser's requests. Out: HTML, scripts, styles and sample pictures, kept by the browser for ever under an address
that changes with them. No key is asked for: there is nothing of anybody's in them.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

from router.api.errors import json_response
from router.api.page_files import Asset, PageFiles

routes = APIRouter(include_in_schema=False)

# Scripts, styles and requests from here only; pictures also from the page's own memory (`blob:`). So whatever an answer
# or a file name contains, nothing of it runs and nobody else hears of it.
POLICY: Final = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "vary": "accept-encoding",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_FILES = PageFiles()


@routes.get("/")
async def root(request: Request) -> Response:
    """Send browsers to the page; say to everybody else what is here."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(status_code=307, headers={"location": "/ui/", "vary": "accept", "cache-control": "no-cache"})
    links = {"page": "/ui/", "docs": "/docs", "openapi": "/openapi.json", "models": "/v1/models", "ready": "/readyz"}
    return json_response({"object": "service", "name": "glowl", **links}, headers={"vary": "accept"})


@routes.get("/ui")
async def index(request: Request) -> Response:
    """Serve the page; asked for anew every time, and mostly answered with 304."""
    page = _FILES.find("index.html")
    assert page is not None
    return _respond(request, page, "no-cache")


@routes.get("/ui/a/{version}/{path:path}")
async def asset(request: Request, version: str, path: str) -> Response:
    """Serve a file of the page.

    A page that was open during an update asks for files of the version before: it gets today's, not to be kept.
    """
    found = _FILES.find(path)
    if found is None:
        raise HTTPException(404)
    return _respond(request, found, _FOR_EVER if version == _FILES.version else "no-store")


def _respond(request: Request, file: Asset, cache: str) -> Response:
    headers = {**_HEADERS, "cache-control": cache, "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if not file.is_packed or "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(file.plain(), media_type=file.media_type, headers=headers)
    return Response(file.data, media_type=file.media_type, headers={**headers, "content-encoding": "gzip"})
