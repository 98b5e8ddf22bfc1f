"""What a caller names by its id: found only if it is the caller's own.

In: an id and an owner. Out: the record; a `NotFoundError` says the same whether it is missing or somebody else's.
"""

from __future__ import annotations

from router.api import texts
from router.batches.records import StoredFile
from router.errors import NotFoundError
from router.jobs.given_up import no_response
from router.jobs.job import Job
from router.services import Services


async def find_response(services: Services, response_id: str, caller: str) -> Job:
    """Return a record of the caller's.

    Raises:
        NotFoundError: if there is none, it belongs to somebody else, or it was not to be stored and has been answered.
    """
    job = await services.store.get(response_id)
    if job is None or job.spec.owner != caller or (job.is_terminal and not job.is_announced):
        raise no_response(response_id)
    return job


async def find_file(services: Services, caller: str, file_id: str, *, param: str = "file_id") -> StoredFile:
    """Return a file of the caller's.

    Raises:
        NotFoundError: if there is none, or it belongs to somebody else.
    """
    found = await services.files.get(caller, file_id)
    if found is None:
        raise no_file(file_id, param)
    return found


def no_file(file_id: str, param: str = "file_id") -> NotFoundError:
    """Make the error of a file that is not there."""
    return NotFoundError(texts.NO_FILE.fill(file_id=file_id), code="file_not_found", param=param)
