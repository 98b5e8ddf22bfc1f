"""Earlier responses that a Responses request goes on from.

In: ids of responses and of their items. Out: conversations and answers; a `BadRequestError` names the field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engines.base import Message, TextPart
from router.api import texts
from router.api.conversation import answer_turn
from router.api.owned import find_response
from router.api.schemas import InputItem, ItemReference
from router.api.stream import find_items
from router.call import from_stored_messages, stored_image_hashes
from router.errors import BadRequestError, NotFoundError
from router.jobs.job import Job
from router.services import Services

_ITEM_ID = re.compile(r"(msg|rs|fc)_([0-9a-f]{32})_(\d{1,4})")


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
        return (*earlier, answer_turn(job.final))
    except KeyError as error:
        raise BadRequestError(
            texts.RESPONSE_PICTURES_GONE.fill(response_id=response_id),
            code="image_file_not_found",
            param="previous_response_id",
        ) from error


async def answers_named(services: Services, items: str | Sequence[InputItem], caller: str) -> dict[str, Message | None]:
    """Look up the output items that an input only names.

    Returns:
        By id, the answer's words, or one of its calls; None for a draft, which is no turn of the conversation.

    Raises:
        BadRequestError: if there is no such item of the caller's.
    """
    answers: dict[str, Message | None] = {}
    for index, item in enumerate([] if isinstance(items, str) else items):
        if not isinstance(item, ItemReference) or item.id in answers:
            continue
        found = _ITEM_ID.fullmatch(item.id)
        if found is not None and found[1] == "rs":
            answers[item.id] = None
            continue
        job = await services.store.get(f"resp_{found[2]}") if found is not None else None
        owned = job if job is not None and job.spec.owner == caller else None
        number = int(found[3]) if found is not None and found[1] == "fc" else None
        answers[item.id] = await _item_of(services, owned, item.id, number, f"input[{index}].id")
    return answers


async def _item_of(services: Services, job: Job | None, item_id: str, number: int | None, param: str) -> Message | None:
    """Return what an item of a response said.

    Args:
        services: the parts the application was built from.
        job: of the response; None if the caller has no such one.
        item_id: of the item.
        number: of a call in the answer; None for an item of another kind.
        param: the field that names the item.

    Raises:
        BadRequestError: if there is no such item.
    """
    missing = BadRequestError(texts.NO_ITEM.fill(id=item_id), code="item_not_found", param=param)
    if job is None:
        raise missing
    if number is not None:
        if job.final is None or number >= len(job.final.tool_calls):
            raise missing
        return Message("assistant", (), (job.final.tool_calls[number],))
    is_final = item_id == (await find_items(job, services.store.read_events)).final
    if job.final is None and is_final:
        raise missing
    return Message("assistant", (TextPart(job.final.text),)) if job.final is not None and is_final else None
