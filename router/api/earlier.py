"""Earlier responses that a Responses request goes on from.

In: ids of responses and of their items. Out: conversations and answers; a `BadRequestError` names the field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engines.base import Message
from router.api import texts
from router.api.conversation import answer_turn
from router.api.owned import find_response
from router.api.schemas import InputItem, ItemReference
from router.api.stream import find_items
from router.call import from_stored_messages, stored_image_hashes
from router.errors import BadRequestError, NotFoundError
from router.services import Services

_ITEM_ID = re.compile(r"(msg|rs)_([0-9a-f]{32})_\d+")


async def conversation_of(services: Services, response_id: str, caller: str) -> tuple[Message, ...]:
    """Return an earlier conversation and its answer, without its instructions, which do not carry over."""
    try:
        job = await find_response(services, response_id, caller)
    except NotFoundError:
        # A wrong field of this request, as OpenAI has it; a 404 would say that there is no such endpoint or model.
        raise BadRequestError(
            texts.NO_PREVIOUS_RESPONSE.fill(response_id=response_id),
            code="previous_response_not_found",
            param="previous_response_id",
        ) from None
    if job.final is None:
        raise BadRequestError(
            texts.NOTHING_TO_CONTINUE.fill(response_id=response_id, state=job.state),
            code="previous_response_not_completed",
            param="previous_response_id",
        )
    stored = job.spec.messages[1:] if job.spec.instructions else job.spec.messages
    blobs = await services.store.get_images(stored_image_hashes(stored))
    try:
        earlier = from_stored_messages(stored, blobs, param="previous_response_id")
        return (*earlier, answer_turn(job.final.text))
    except KeyError as error:
        raise BadRequestError(
            texts.RESPONSE_PICTURES_GONE.fill(response_id=response_id),
            code="image_file_not_found",
            param="previous_response_id",
        ) from error


async def answers_named(services: Services, items: str | Sequence[InputItem], caller: str) -> dict[str, str | None]:
    """Look up the output items that an input only names.

    Returns:
        By id, the answer; None for a draft, which is no turn of the conversation.

    Raises:
        BadRequestError: if there is no such item of the caller's.
    """
    answers: dict[str, str | None] = {}
    for index, item in enumerate([] if isinstance(items, str) else items):
        if not isinstance(item, ItemReference) or item.id in answers:
            continue
        found = _ITEM_ID.fullmatch(item.id)
        if found is not None and found[1] == "rs":
            answers[item.id] = None
            continue
        job = await services.store.get(f"resp_{found[2]}") if found is not None else None
        names = (
            await find_items(job, services.store.read_events) if job is not None and job.spec.owner == caller else None
        )
        if job is None or names is None or (job.final is None and item.id == names.final):
            raise BadRequestError(texts.NO_ITEM.fill(id=item.id), code="item_not_found", param=f"input[{index}].id")
        answers[item.id] = job.final.text if job.final is not None and item.id == names.final else None
    return answers
