"""What is kept of an answer, and the job that is made of it when the same is asked again.

In: a job that ended well. Out: bytes; and from them a `KeptAnswer`, which becomes the units and the end of a new job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson

from router.jobs.job import BranchPlan, Job, JobSpec, Unit
from router.jobs.results import FinalAnswer, UnitResult

# A cached answer is streamed in about this many pieces.
_NUM_PIECES: Final = 12


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that was given before.

    Attributes:
        name: of the answer, see `router.cache.keys.CacheKey.name`.
        made_at: unix seconds of its end.
        plan: of the spec, what was decided then: ``decision language branches strategy``.
        units: by name, with what each said.
        final: the answer.
    """

    name: str
    made_at: float
    plan: dict[str, Any]
    units: Mapping[str, Unit]
    final: FinalAnswer

    def to_job(self, spec: JobSpec, now: float) -> Job:
        """Return the job that ends with this answer at once.

        Args:
            spec: of the new request; its plan is this answer's.
            now: unix seconds.
        """
        spec = replace(spec, **self.plan, cache="hit", cached_at=self.made_at)
        return Job(
            spec,
            "completed",
            self.units,
            started_at=now,
            completed_at=now,
            final=self.final,
            kept_as=self.name,
        )


def is_worth_keeping(job: Job) -> bool:
    """Whether a job ended with the whole answer: none that was cut, and nothing missing of what was planned."""
    is_whole = job.state == "completed" and job.final is not None and not job.final.degraded
    return is_whole and not job.spec.decision.get("degraded")


def to_bytes(job: Job) -> bytes:
    """Write what is kept of a job, which is worth keeping."""
    assert job.final is not None
    spec = job.spec
    return orjson.dumps(
        {
            "made_at": job.completed_at,
            "plan": {
                "decision": spec.decision,
                "language": spec.language,
                "branches": [asdict(branch) for branch in spec.branches],
                "strategy": spec.strategy,
            },
            "units": {
                unit.name: {
                    "state": unit.state,
                    "result": None if unit.result is None else replace(unit.result, cuts=()).to_dict(),
                }
                for unit in job.units.values()
            },
            "final": job.final.to_dict(),
        }
    )


def from_bytes(data: bytes, name: str) -> KeptAnswer | None:
    """Read `to_bytes`' form; None if a newer release wrote it in another."""
    try:
        kept = orjson.loads(data)
        plan = kept["plan"]
        branches = tuple(BranchPlan.from_dict(branch) for branch in plan["branches"])
        units = {
            unit: Unit(unit, row["state"], epoch=1, result=None if row["result"] is None else _to_result(row["result"]))
            for unit, row in kept["units"].items()
        }
        final = FinalAnswer.from_dict(kept["final"])
        return KeptAnswer(name, float(kept["made_at"]), {**plan, "branches": branches}, units, final)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _to_result(data: dict[str, Any]) -> UnitResult:
    """Read what a unit said, and cut it into a few pieces, as a stream is to be one."""
    result = UnitResult.from_dict(data)
    # Which of the log probabilities belong to a piece is not kept: they are sent all at once.
    if not result.text or result.logprobs:
        return result
    step = max(-(-len(result.text) // _NUM_PIECES), 1)
    starts = range(0, len(result.text), step)
    return replace(result, cuts=tuple((min(step, len(result.text) - start), 0) for start in starts))
