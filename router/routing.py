"""From a call to a decision: measure the question, ask the policy.

In: a `Call` and the engines' health. Out: `Routed`: the features, the decision, and which branches a job would have.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.decide import decide
from policies.decision import Decision, Health
from policies.features import Features, Question, measure
from policies.rules import Rules
from router.call import Call
from router.jobs.job import BranchPlan


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision with what it was made from."""

    features: Features
    decision: Decision


def route(call: Call, rules: Rules, health: Health) -> Routed:
    """Decide where a call goes."""
    features = measure(to_question(call), call.hints)
    return Routed(features, decide(features, rules, health))


def to_question(call: Call) -> Question:
    """Take from a call what the policy looks at: the new user turn, and apart from it what came before."""
    *earlier, last = call.messages
    return Question(
        text=last.text,
        history=tuple(message.text for message in earlier if message.role == "user"),
        image_keys=tuple(image.sha256 for image in last.images),
        history_image_keys=tuple(image.sha256 for message in earlier for image in message.images),
        system_text="\n".join(message.text for message in earlier if message.role == "system"),
    )


def plan_branches(call: Call, decision: Decision, health: Health) -> tuple[BranchPlan, ...]:
    """Say who answers a job, the engine of the final answer last.

    A deep job has a draft by GLM beside it, unless GLM is down or the caller named Owl2 as the model: who names one
    model wants that model.
    """
    if decision.engine == "glm":
        return (BranchPlan("fast", "glm", enable_thinking=decision.enable_thinking),)
    glm = health.engines.get("glm")
    wants_draft = call.hints.engine != "owl2" and (glm is None or glm.is_up)
    draft = (BranchPlan("draft", "glm"),) if wants_draft else ()
    return (*draft, BranchPlan("deep", "owl2"))


def default_strategy(language: str) -> str:
    """Owl2's Chinese is weak, so a Chinese question gets an answer that GLM composes from both."""
    return "compose" if language == "zh" else "deep"
