"""``/v1/review``: kept answers that wait for somebody to say what is right, and the pictures that they are about.

In: a caller. Out: its own exchanges, the newest first, each with both models' answers. What is right is said by
``POST /v1/responses/{id}/feedback``; then it waits no longer.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from router.api import texts
from router.api.captured import reaching
from router.api.errors import json_response
from router.api.intake import owner, services_of
from router.api.paging import Limit, to_page
from router.errors import BadRequestError, NotFoundError
from router.loop.datasets.select import Candidate, waiting
from router.loop.store import Kept, LoopStore

routes = APIRouter(tags=["responses"])

Json = dict[str, Any]
Found = tuple[list[Candidate], dict[str, Kept]]


@routes.get("/v1/review")
async def list_waiting(
    request: Request, after: Annotated[str, Query(max_length=128)] = "", limit: Limit = 20
) -> Response:
    """List the caller's kept answers of which nobody has said what is right, those that may be wrong, newest first."""
    services, caller = services_of(request), owner(request, "ask")
    await services.capture.flush()

    def find(store: LoopStore) -> Found | None:
        last = store.get(after) if after else None
        if after and (last is None or last.owner != caller):
            return None
        found = list(islice(waiting(store.doubtful(caller, before=last)), limit + 1))
        return found, store.pictures(sha256 for each in found[:limit] for sha256 in each.exchange.pictures)

    nothing: Found = ([], {})
    answer = await reaching(services.capture.ask(find, None if after else nothing))
    if answer is None:
        raise BadRequestError(texts.NO_REVIEW_AFTER.fill(after=after), code="invalid_value", param="after")
    found, pictures = answer
    return json_response(to_page([_to_json(each, pictures) for each in found[:limit]], has_more=len(found) > limit))


@routes.get("/v1/review/{response_id}/pictures/{sha256}")
async def get_picture(request: Request, response_id: str, sha256: str) -> Response:
    """Read a kept picture that one of the caller's kept answers is about."""
    services, caller = services_of(request), owner(request, "ask")

    def find(store: LoopStore) -> Path | None:
        exchange = store.get(response_id)
        if exchange is None or exchange.owner != caller or sha256 not in exchange.pictures:
            return None
        kept = store.pictures([sha256]).get(sha256)
        return None if kept is None else kept.file

    path = await reaching(services.capture.ask(find, None))
    try:
        data = b"" if path is None else await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:  # it was deleted in this moment
        data = b""
    if not data:
        raise NotFoundError(texts.NO_KEPT_PICTURE.fill(sha256=sha256), code="file_not_found", param="sha256")
    # Never shown in a tab of its own: what clients send is not ours to run.
    return Response(data, media_type="application/octet-stream", headers={"content-disposition": "attachment"})


def _to_json(candidate: Candidate, pictures: dict[str, Kept]) -> Json:
    exchange = candidate.exchange
    said = exchange.feedback
    return {
        "id": exchange.id,
        "object": "review.item",
        "created_at": int(exchange.at),
        "reasons": list(candidate.reasons),
        "question": exchange.question,
        "answer": exchange.final,
        "answers": {"glm": exchange.draft or None, "owl2": exchange.deep or None},
        "model": exchange.final_model,
        "agreement": exchange.agreement,
        "conflicts": [dict(each) for each in exchange.conflicts],
        "rating": None if said is None else said.rating,
        "pictures": [_to_picture(sha256, pictures.get(sha256)) for sha256 in exchange.pictures],
    }


def _to_picture(sha256: str, kept: Kept | None) -> Json:
    return {
        "sha256": sha256,
        "width": None if kept is None else kept.look.width_px,
        "height": None if kept is None else kept.look.height_px,
        "is_kept": kept is not None and kept.file is not None,
    }
