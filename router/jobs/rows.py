"""The job record as redis has it: the fields of a hash, and the entries of a stream.

In: what redis returns, or a job. Out: the types of `router.jobs.job` and `router.jobs.results`, or fields. What an
earlier release wrote is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

import orjson

from engines.base import ImagePart
from engines.json_forms import from_logprobs
from engines.origin import Origin
from router.errors import NewerRecordError
from router.jobs.facts import of_end
from router.jobs.job import MERGE, Event, Job, JobSpec, Patience, Unit, end_state
from router.jobs.results import ErrorRecord, FinalAnswer, UnitResult

Cause = Literal["deadline", "expired"]
_RUN_FIELDS: Final = ("state", "epoch", "result", "at", "failures")


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of an owner's jobs.

    Attributes:
        jobs: newest first; without those that only a newer release can read.
        has_more: there may be more after ``last_id``.
        last_id: the last job that was looked at; empty if there was none.
    """

    jobs: list[Job]
    has_more: bool
    last_id: str


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a round of the reaper found.

    Attributes:
        lined_up: how many units were queued, by queue: as many tickets are to be sent.
        overdue: jobs that are to be ended with what there is, and why.
    """

    lined_up: dict[str, int] = field(default_factory=dict)
    overdue: list[tuple[str, Cause]] = field(default_factory=list)


def to_fields(job: Job) -> dict[str, str | bytes | float]:
    """Return the fields of a job that was answered without the queue; ``units`` comes first."""
    fields: dict[str, str | bytes | float] = {
        "units": ",".join(job.units),
        "spec": orjson.dumps(job.spec.to_dict()),
        "state": job.state,
        "completed_at": job.completed_at or job.spec.created_at,
        "started_at": job.started_at or job.spec.created_at,
    }
    if job.kept_as:
        fields["kept_as"] = job.kept_as
    if origin := job.spec.origin.to_text():
        fields["origin"] = origin
    for unit in job.units.values():
        fields[f"{unit.name}.state"] = unit.state
        fields[f"{unit.name}.epoch"] = unit.epoch
        if unit.result:
            fields[f"{unit.name}.result"] = orjson.dumps(unit.result.to_dict())
    if job.final:
        fields["final"] = orjson.dumps(job.final.to_dict())
    if job.error:
        fields["error"] = orjson.dumps(job.error)
    return fields


def to_event(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    """Read an entry of a job's events."""
    return Event(
        kind=cast("Any", fields[b"k"].decode()),
        unit=fields[b"u"].decode(),
        epoch=int(fields[b"n"]),
        text=fields[b"x"].decode(),
        state=fields[b"s"].decode(),
        id=entry_id.decode(),
        logprobs=from_logprobs(orjson.loads(logprobs)) if (logprobs := fields.get(b"l")) else (),
    )


def to_job(raw: dict[str, bytes]) -> Job:
    """Read a job's hash."""

    def number(name: str) -> float | None:
        return float(raw[name]) if name in raw else None

    units: dict[str, Unit] = {}
    for name in [*raw["units"].decode().split(","), MERGE]:
        if f"{name}.state" not in raw:
            continue
        result = raw.get(f"{name}.result")
        units[name] = Unit(
            name=name,
            state=cast("Any", raw[f"{name}.state"].decode()),
            epoch=int(raw.get(f"{name}.epoch", 0)),
            failures=int(raw.get(f"{name}.failures", 0)),
            result=UnitResult.from_dict(orjson.loads(result)) if result else None,
            began_at=number(f"{name}.at"),
        )
    spec = JobSpec.from_dict(orjson.loads(raw["spec"]))
    if "metadata" in raw:
        spec = replace(spec, metadata=orjson.loads(raw["metadata"]))
    if "origin" in raw:
        spec = replace(spec, origin=Origin.from_text(raw["origin"]))
    follows = raw.get("follows", b"").decode()
    if follows:
        spec = replace(spec, cache="joined")
    return Job(
        spec=spec,
        state=cast("Any", raw["state"].decode()),
        units=units,
        started_at=number("started_at"),
        completed_at=number("completed_at"),
        final=FinalAnswer.from_dict(orjson.loads(raw["final"])) if "final" in raw else None,
        error=orjson.loads(raw["error"]) if "error" in raw else None,
        accepted_at=number("accepted_at"),
        is_told="told" in raw,
        kept_as=raw.get("kept_as", b"").decode(),
        follows=follows,
    )


def to_jobs(records: Iterable[dict[bytes, bytes]]) -> Iterator[Job]:
    """Read records of a list: one that is gone, or of a newer release, must not hide the others."""
    for raw in records:
        if b"spec" in raw:
            with suppress(NewerRecordError):
                yield to_job({key.decode(): value for key, value in raw.items()})


def seen_through(raw: dict[str, bytes], leader: dict[str, bytes]) -> dict[str, bytes]:
    """Return the hash of a job that waits for another, with how far that one is."""
    units = [*raw["units"].decode().split(","), MERGE]
    names = ["state", "started_at", *(f"{unit}.{field}" for unit in units for field in _RUN_FIELDS)]
    return {**raw, **{name: leader[name] for name in names if name in leader}}


def to_ending(final: FinalAnswer | None, error: ErrorRecord | None, job: Job | None) -> dict[str, str | bytes | float]:
    """Return what is written when a job ends; ``job`` is the record as it was read, for metrics."""
    return {
        "state": end_state(final),
        "final": orjson.dumps(final.to_dict()) if final else "",
        "error": orjson.dumps(error) if error else "",
        "used": final.usage.prompt_tokens + final.usage.completion_tokens if final else "",
        "measured": of_end(job, final) if job is not None else "",
    }


def to_patience(grace_s: float, merge_patience_s: float) -> dict[Patience, float | str]:
    """Return the seconds that a merge waits for a branch; empty for one that it always waits for."""
    return {"always": "", "a while": max(merge_patience_s, grace_s), "a moment": grace_s}


def list_of(spec: JobSpec) -> str:
    """Return the list in which a job stands; empty for one that is not to be stored, which is in none."""
    return list_name(spec.owner, spec.batch_id) if spec.is_stored or spec.batch_id else ""


def list_name(owner: str, batch_id: str) -> str:
    """Return the list in which a job stands."""
    return f"{owner}|{batch_id}" if batch_id else owner


def sizes_of(hashes: str, images: Iterable[ImagePart]) -> str:
    """Return the pictures' sizes in the order of their hashes; empty if they are not all known."""
    by_hash = {image.sha256: str(len(image.data)) for image in images}
    wanted = hashes.split()
    return " ".join(by_hash[sha256] for sha256 in wanted) if by_hash.keys() >= set(wanted) else ""
