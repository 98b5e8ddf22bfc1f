"""``/v1/files``: upload, list, describe, read, delete.

In: multipart uploads and ids. Out: OpenAI's file objects, and the bytes again. Files go into redis and come out of it a
chunk at a time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from router.api import texts
from router.api.errors import json_response
from router.api.intake import check_declared, owner, services_of
from router.api.multipart import MAX_AROUND_BYTES, Form, is_form, read_form
from router.api.named_files import VISION
from router.api.owned import find_file, no_file
from router.api.paging import to_page
from router.batches.records import MAX_TTL_S, MIN_TTL_S, StoredFile
from router.errors import BadRequestError, QueueUnavailableError, StorageFullError
from router.media import StoredPicture

routes = APIRouter(tags=["files"])

Json = dict[str, Any]

_MAX_FILENAME = 255
_MAX_SHOWN = 64
_PURPOSES = ("batch", VISION)
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


@routes.post("/v1/files")
async def create_file(request: Request) -> Response:
    """Store a file; a picture is looked at like one in a request, so that what is stored can be asked about."""
    services, caller = services_of(request), owner(request, "files")
    settings, content_type = services.settings, request.headers.get("content-type", "")
    # What is no form is refused too, below; but as too large first, like any other body.
    limit = settings.max_file_bytes + MAX_AROUND_BYTES if is_form(content_type) else settings.max_body_bytes
    check_declared(request, limit)
    upload = services.files.begin(caller)
    form = Form()

    async def write(data: bytes) -> None:
        if form.fields.get("purpose") == VISION and upload.size + len(data) > settings.max_image_bytes:
            raise services.media.too_many_bytes("file")
        await upload.write(data)

    try:
        await read_form(content_type, request.stream(), form, file_field="file", write=write)
        if form.filename is None:
            raise BadRequestError(
                texts.MISSING_PARAMETER.fill(param="file"),
                code="missing_required_parameter",
                param="file",
            )
        _check_names(form.fields)
        purpose = _check_purpose(form.fields.get("purpose"))
        ttl_s = _read_ttl(form.fields)
        filename = form.filename.replace("\\", "/").rpartition("/")[2][:_MAX_FILENAME] or "file"
        if purpose == VISION:
            await services.media.load(StoredPicture(upload.id, await upload.read()), param="file")
        stored = await upload.commit(filename, purpose=purpose, ttl_s=ttl_s)
    except StorageFullError:
        await upload.abort()
        raise
    except QueueUnavailableError:
        services.dispatcher.do_later(upload.take_back)
        raise
    except BaseException:
        await upload.abort()
        raise
    return json_response(to_file(stored))


@routes.get("/v1/files")
async def list_files(
    request: Request,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str = "",
) -> Response:
    """List files."""
    services, caller = services_of(request), owner(request, "files")
    found, has_more = await services.files.list_files(
        caller, after=after, limit=limit, purpose=purpose, is_newest_first=order == "desc"
    )
    return json_response(to_page([to_file(each) for each in found], has_more=has_more))


@routes.get("/v1/files/{file_id}")
async def get_file(request: Request, file_id: str) -> Response:
    """Describe a file."""
    return json_response(to_file(await find_file(services_of(request), owner(request, "files"), file_id)))


@routes.get("/v1/files/{file_id}/content")
async def get_content(request: Request, file_id: str) -> Response:
    """Read a file."""
    services = services_of(request)
    file = await find_file(services, owner(request, "files"), file_id)
    return StreamingResponse(
        services.files.stream(file.id, file.num_bytes),
        media_type="application/octet-stream",
        headers={
            "content-length": str(file.num_bytes),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        },
    )


@routes.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Forget a file."""
    if not await services_of(request).files.delete(owner(request, "files"), file_id):
        raise no_file(file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


def to_file(file: StoredFile) -> Json:
    """Return a file as OpenAI clients know it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": int(file.created_at),
        "expires_at": int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _check_names(fields: dict[str, str]) -> None:
    for name in fields:
        if name not in _FIELDS:
            shown = name[:_MAX_SHOWN]
            said = texts.UNKNOWN_OPTION.fill(param=shown, accepted=", ".join(("file", *_FIELDS)))
            raise BadRequestError(said, code="unknown_parameter", param=shown)


def _check_purpose(purpose: str | None) -> str:
    if purpose is None:
        raise BadRequestError(
            texts.MISSING_PARAMETER.fill(param="purpose"),
            code="missing_required_parameter",
            param="purpose",
        )
    if purpose not in _PURPOSES:
        raise BadRequestError(
            texts.UNKNOWN_PURPOSE.fill(purpose=purpose[:64]), code="unsupported_value", param="purpose"
        )
    return purpose


def _read_ttl(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    digits = (seconds or "").lstrip("0")  # int() itself refuses thousands of them
    ttl_s = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_TTL_S)) else 0
    if anchor != "created_at" or not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise BadRequestError(
            texts.INVALID_EXPIRY.fill(min_ttl_s=MIN_TTL_S, max_ttl_s=MAX_TTL_S),
            code="invalid_value",
            param="expires_after",
        )
    return ttl_s
