"""Lists a page at a time, as OpenAI's clients read them.

In: the objects of one page. Out: the ``list`` object around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query

Json = dict[str, Any]

# How many objects a page has, for lists whose objects are not tiny.
Limit = Annotated[int, Query(ge=1, le=100)]


def to_page(data: Sequence[Json], *, has_more: bool, last_id: str | None = None) -> Json:
    """Return a page of a list.

    Args:
        data: its objects, each with an ``id``.
        has_more: the list goes on after it.
        last_id: what the next page comes after, if that is not the last object's id: a page may end in one that is
            not shown.
    """
    ids = [each["id"] for each in data]
    return {
        "object": "list",
        "data": data,
        "first_id": ids[0] if ids else None,
        "last_id": last_id or (ids[-1] if ids else None),
        "has_more": has_more,
    }
