"""Jobs as tests write them down: what was asked, by whom, and who answers."""

from __future__ import annotations

from dataclasses import replace

from engines.base import SamplingParams
from router.jobs.job import BranchPlan, JobSpec, new_job_id
from router.jobs.results import UnitResult
from tests.model.record import Record

PAIR = (BranchPlan("draft", "glm"), BranchPlan("deep", "owl2"))
DECISION = {"route": "deep", "engine": "owl2", "rule": "english", "reasons": [], "preset": "seed", "degraded": []}


def make_spec(**changes: object) -> JobSpec:
    """A question in English that GLM drafts an answer to and Owl2 answers."""
    spec = JobSpec(
        id=new_job_id(),
        owner="local",
        created_at=1_000_000.0,
        model="glowl",
        messages=[{"role": "user", "parts": [{"type": "text", "text": "What is it?"}]}],
        sampling=SamplingParams(max_tokens=7, stop=("x",)),
        decision=DECISION,
        language="en",
        branches=PAIR,
        strategy="deep",
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


async def finish_all(store: Record, spec: JobSpec) -> None:
    """Let every branch answer with its own name."""
    for branch in spec.branches:
        epoch = await store.claim(spec.id, branch.name)
        assert epoch
        await store.finish(spec.id, branch.name, epoch, UnitResult(text=branch.name, model="m"))
