"""Uploaded pictures that a request names by their ids.

In: a request's input, or ids. Out: the pictures' bytes by id; a refusal names the field.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.api import texts
from router.api.owned import find_file, no_file
from router.api.schemas import FunctionCallOutputItem, InputImagePart, InputItem, InputMessage
from router.batches.files import FileGoneError
from router.errors import BadRequestError, BodyTooLargeError
from router.media import StoredPicture
from router.services import Services

VISION = "vision"


async def pictures_named(services: Services, items: str | Sequence[InputItem], caller: str) -> dict[str, StoredPicture]:
    """Read the pictures that an input names, as `read_named` does."""
    return await read_named(services, _names(items), caller)


async def read_named(services: Services, names: Sequence[tuple[str, str]], caller: str) -> dict[str, StoredPicture]:
    """Read uploaded pictures.

    Together they may be as large as a request body: what is named costs as much memory as what is sent.

    Args:
        services: the parts the application was built from.
        names: ids, each with the field that names it.
        caller: the owner.

    Raises:
        NotFoundError: if the caller has no such file.
        BadRequestError: if it was uploaded for something else.
        BodyTooLargeError: if they are larger together.
    """
    found: dict[str, StoredPicture] = {}
    left = services.settings.max_body_bytes
    for file_id, param in names:
        if file_id in found:
            continue
        file = await find_file(services, caller, file_id, param=param)
        if file.purpose != VISION:
            raise BadRequestError(
                texts.NO_PICTURE_FILE.fill(id=file.id, purpose=file.purpose), code="invalid_input_file", param=param
            )
        left -= file.num_bytes
        if left < 0:
            raise BodyTooLargeError(texts.BODY_TOO_LARGE.fill(limit=services.settings.max_body_bytes), param=param)
        try:
            found[file_id] = StoredPicture(file_id, await services.files.read(file_id, 0, file.num_bytes))
        except FileGoneError:
            raise no_file(file_id, param) from None
    return found


def _names(items: str | Sequence[InputItem]) -> list[tuple[str, str]]:
    shown = [
        (item.content, f"input[{index}].content")
        if isinstance(item, InputMessage)
        else (item.output, f"input[{index}].output")
        for index, item in enumerate([] if isinstance(items, str) else items)
        if isinstance(item, InputMessage | FunctionCallOutputItem)
    ]
    return [
        (part.file_id, f"{field}[{place}].file_id")
        for content, field in shown
        if not isinstance(content, str)
        for place, part in enumerate(content)
        if isinstance(part, InputImagePart) and part.file_id is not None and part.image_url is None
    ]
