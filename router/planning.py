"""Planning: from a routed call to what its answer will be made of.

In: a `Call`, what was decided, and what is known of the engines. Out: a `JobSpec`: who answers, how the answers are
merged, and what its caller is told is missing. Pure functions: nothing is asked, stored or sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engines.adapter_names import model_with
from engines.base import EngineInfo
from policies.decision import Health
from router import texts
from router.answers.groups import with_degraded
from router.call import Call
from router.errors import BadRequestError, EngineFailedError
from router.failover import without
from router.jobs.job import BranchPlan, JobSpec
from router.jobs.specs import to_spec
from router.routing import Routed, has_fields, plan_branches, plan_merge, wants_glm

DRAFT_UNIT = "draft"


def plan_job(call: Call, routed: Routed, health: Health, infos: Mapping[str, EngineInfo | None]) -> JobSpec:
    """Plan the branches of a job.

    Args:
        call: what is asked.
        routed: what was decided.
        health: of the engines.
        infos: what each engine says of itself; None where it has not said it yet.

    Raises:
        EngineFailedError: if a schema is asked for and no engine that could keep to it is there.
        BadRequestError: if there are more pictures than the engine accepts.
    """
    if routed.decision.overloaded == "glm":
        # GLM is overloaded: ask it for no draft and no composing.
        health = without(health, "glm")
    glm = infos.get("glm")
    limits = {name: info.max_images if info else None for name, info in infos.items()}
    branches = tuple(
        replace(branch, model=model_with(glm.model_id, call.adapter_for("glm")))
        if branch.name == DRAFT_UNIT and glm is not None
        else branch
        for branch in plan_branches(call, routed.decision, health, limits)
    )
    has_glm = any(branch.engine == "glm" for branch in branches)
    if call.sampling.json_schema is not None and not has_glm and not wants_glm(call, health):
        raise EngineFailedError(texts.NO_ENGINE_FOR_SCHEMA, status=503, code="engine_unavailable", retry_after_s=1)
    if branches[-1].engine == "glm":
        check_images(call, glm)
    spec = plan_answer(call, routed, branches)
    if glm is not None and not has_glm and wants_glm(call, health):
        note = texts.NO_DRAFT.fill(model=glm.model_id, most=glm.max_images, number=len(call.images))
        spec = with_degraded(spec, [note])
    if call.strategy == "fields" and branches[-1].pictures:
        spec = with_degraded(spec, [texts.NO_FIELDS])
    return spec


def plan_answer(call: Call, routed: Routed, branches: tuple[BranchPlan, ...]) -> JobSpec:
    """Return the spec of an answer that these branches make."""
    language = routed.features.answer_language or routed.features.language
    spec = to_spec(
        call,
        decision=routed.decision.to_dict(),
        language=language,
        branches=branches,
        strategy=plan_merge(
            branches,
            call.strategy,
            "zh" if routed.features.language == "zh" else language,
            has_schema=call.sampling.json_schema is not None,
            has_fields=has_fields(call),
            is_alone=call.hints.engine == "owl2",
        ),
        policy_ms=routed.took_ms,
    )
    notes = [*(call.output_format.degraded if call.output_format is not None else ()), *call.notes]
    return with_degraded(spec, notes) if notes else spec


def check_images(call: Call, info: EngineInfo | None) -> None:
    """Refuse what an engine would refuse, before anything is stored.

    Raises:
        BadRequestError: if there are more pictures than the engine accepts.
    """
    if info is not None and len(call.images) > info.max_images:
        raise BadRequestError(
            texts.TOO_MANY_FOR_MODEL.fill(
                num_images=len(call.images), model_id=info.model_id, max_images=info.max_images
            ),
            code="too_many_images",
        )
