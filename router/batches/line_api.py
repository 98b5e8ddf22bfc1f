"""What the runner of batches knows of the wire shapes: how a line is read, and what it is answered with.

In: lines of a batch. Out: a `Protocol` that the api implements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.batches.records import BatchSpec, Json
from router.call import Call
from router.errors import RouterError
from router.jobs.job import Job


@dataclass(frozen=True, slots=True)
class Answer:
    """What a line's request was answered with.

    Attributes:
        status: HTTP's.
        body: the object, or the error envelope.
        usage: token counts by name.
    """

    status: int
    body: Json
    usage: Mapping[str, int] = field(default_factory=dict)


class LineApi(Protocol):
    """The wire shapes, which the runner knows nothing of."""

    def read(self, endpoint: str, body: Json) -> Any:
        """Validate a line's body.

        Raises:
            RouterError: for whatever is wrong with it.
        """

    async def to_call(self, request: Any, spec: BatchSpec, job_id: str) -> Call:
        """Load the pictures and build the call.

        Raises:
            RouterError: for whatever is wrong with it.
        """

    def to_answer(self, spec: BatchSpec, job: Job) -> Answer:
        """Return what a job that has ended amounts to."""

    def to_refusal(self, spec: BatchSpec, error: RouterError) -> Answer:
        """Return what a refusal at the door amounts to."""
