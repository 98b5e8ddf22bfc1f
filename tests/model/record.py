"""What a job store does, whatever it keeps its records in.

In: the changes that the api, the workers and the reaper ask for. Out: `Job` snapshots and events. `JobStore` keeps them
in redis; `MemoryJobStore` is the same state machine in plain Python: the specification that can be run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from engines.base import ImagePart, TokenLogprob
from router.jobs.job import Claim, Event, FinalAnswer, Job, JobSpec, UnitResult, Why
from router.jobs.store import Reaped


class Record(Protocol):
    """A job store; `router.jobs.store.JobStore` says what each method means."""

    async def put_images(self, images: Iterable[ImagePart]) -> None: ...  # noqa: D102
    async def get_images(self, hashes: Iterable[str]) -> dict[str, bytes]: ...  # noqa: D102
    async def create(self, spec: JobSpec, images: Iterable[ImagePart] = ()) -> Job: ...  # noqa: D102
    async def retry(self, job: Job) -> str: ...  # noqa: D102
    async def put_finished(self, job: Job, images: Iterable[ImagePart] = ()) -> None: ...  # noqa: D102
    async def get(self, job_id: str) -> Job | None: ...  # noqa: D102
    async def locate(self, job: Job) -> Job: ...  # noqa: D102
    async def depths(self) -> dict[str, int]: ...  # noqa: D102
    async def take_next(self, queue: str) -> Claim | None: ...  # noqa: D102
    async def claim(self, job_id: str, unit: str) -> int | None: ...  # noqa: D102
    async def renew(self, job_id: str, unit: str, epoch: int) -> bool: ...  # noqa: D102
    async def append(  # noqa: D102
        self,
        job_id: str,
        unit: str,
        epoch: int,
        text: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        piece: int | None = None,
    ) -> bool: ...
    async def finish(self, job_id: str, unit: str, epoch: int, result: UnitResult) -> bool: ...  # noqa: D102
    async def release(  # noqa: D102
        self, job_id: str, unit: str, epoch: int, why: Why, *, delay_s: float = 0.0, max_delay_s: float | None = None
    ) -> bool: ...
    async def wake(self, queue: str) -> int: ...  # noqa: D102
    async def complete(  # noqa: D102
        self, job_id: str, epoch: int, *, final: FinalAnswer | None = None, error: dict[str, Any] | None = None
    ) -> bool: ...
    async def end(  # noqa: D102
        self, job: Job, *, final: FinalAnswer | None = None, error: dict[str, Any] | None = None
    ) -> bool: ...
    async def cancel(self, job_id: str) -> Job | None: ...  # noqa: D102
    async def delete(self, job_id: str) -> bool: ...  # noqa: D102
    async def reap(self, down: frozenset[str] = frozenset()) -> Reaped: ...  # noqa: D102
    async def read_events(self, job_id: str, after: str = "") -> list[Event]: ...  # noqa: D102
