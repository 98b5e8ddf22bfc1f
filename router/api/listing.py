"""Lists of an owner's jobs, narrowed by what they say and by what their caller wrote down about them.

In: query parameters. Out: a page of records, newest first.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import Query, Request

from policies.text import Text
from router.api import texts
from router.errors import BadRequestError
from router.jobs.job import Job, JobState
from router.jobs.rows import JobPage
from router.services import Services

Id = Annotated[str, Query(max_length=128)]
Search = Annotated[str, Query(max_length=200, description="words of the title, the question or the answer")]

_METADATA: Final = re.compile(r"metadata\[(.{1,64})\]")
# Azure's clients send it with every request.
_HARMLESS: Final = frozenset({"api-version"})
_MAX_SHOWN: Final = 64
# A page of a rare search ends after this many jobs; the next page continues from there.
_MOST_LOOKED_AT: Final = 2000
_AT_A_TIME: Final = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a list is to show.

    Attributes:
        state: only those in it; None for all.
        q: all of its words are in the title, the question or the answer, in any case; empty for all.
        metadata: pairs that the job has.
        batch_id: only the lines of this batch; empty for all that are no lines.
    """

    state: JobState | None = None
    q: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    batch_id: str = ""

    @property
    def is_narrow(self) -> bool:
        """Whether records have to be read to know whether they are wanted."""
        return bool(self.q or self.metadata)

    def matches(self, job: Job) -> bool:
        """Whether the list shows a job, its state aside."""
        has = job.spec.metadata
        if any(has.get(key) != value for key, value in self.metadata.items()):
            return False
        answer = job.final or job.draft
        said = "\n".join((has.get("title", ""), job.spec.question, answer.text if answer else "")).casefold()
        return all(word in said for word in self.q.casefold().split())


def metadata_wanted(request: Request) -> dict[str, str]:
    """Return the pairs of ``metadata[KEY]=VALUE`` in a query, as OpenAI's lists of stored answers have them.

    Raises:
        BadRequestError: if the query has a name that the list does not know: it would show more than was asked for.
    """
    known = [each.alias for each in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known and name not in _HARMLESS and not _METADATA.fullmatch(name):
            shown = name[:_MAX_SHOWN]
            accepted = ", ".join((*known, "metadata[KEY]"))
            raise BadRequestError(
                texts.UNKNOWN_OPTION.fill(param=shown, accepted=accepted), code="unknown_parameter", param=shown
            )
    found = ((_METADATA.fullmatch(name), value) for name, value in request.query_params.multi_items())
    return {name[1]: value for name, value in found if name is not None}


async def list_jobs(
    services: Services, caller: str, wanted: Wanted, *, after: str, limit: int, missing: Text
) -> JobPage:
    """Return a page.

    Args:
        services: the parts the application was built from.
        caller: the owner.
        wanted: which jobs.
        after: the last one of the page before; empty for the first page.
        limit: how many at most.
        missing: what to say where ``after`` is not in the list.

    Raises:
        BadRequestError: if ``after`` is not in the list.
    """
    found: list[Job] = []
    num_seen = 0
    while True:
        page = await services.store.list_jobs(
            caller,
            batch_id=wanted.batch_id,
            state=wanted.state or "",
            after=after,
            limit=_AT_A_TIME if wanted.is_narrow else limit,
        )
        if page is None:
            raise BadRequestError(missing.fill(after=after), code="invalid_value", param="after")
        for job in page.jobs:
            if wanted.matches(job):
                found.append(job)
                if len(found) == limit:
                    has_more = page.has_more or job is not page.jobs[-1]
                    return JobPage(found, has_more=has_more, last_id=job.id if wanted.is_narrow else page.last_id)
        num_seen += _AT_A_TIME
        if not page.has_more or num_seen >= _MOST_LOOKED_AT or not wanted.is_narrow:
            return JobPage(found, has_more=page.has_more, last_id=page.last_id)
        after = page.last_id


async def located(services: Services, jobs: list[Job]) -> list[Job]:
    """Return the jobs with the places in the queue of those that have not ended."""
    return await asyncio.gather(*(services.store.locate(job) for job in jobs))
