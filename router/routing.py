"""From a call to a decision: measure the question, gather what else counts, ask the policy.

In: a `Call` and the engines' health. Out: `Routed`: the features and the decision; and which branches a job would have.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from engines.json_check import can_check
from policies.context import Context, Previous, bucket_of
from policies.decide import decide
from policies.decision import Decision, Health, Route
from policies.features import Features, Question, measure
from policies.rules import Rules
from router import texts
from router.answers import groups
from router.call import Call
from router.jobs.job import BranchPlan
from router.questions import place_of_question
from router.telemetry.meters import UNMETERED, Meters

_WINDOW = 200
# The first few requests say little about a share: they count as if there had been so many.
_LEAST_WINDOW = 20
_MAX_OWNERS = 1000
# Of a first turn, so many characters and its length name the conversation; megabytes would only cost time.
_MAX_NAMED = 4096
# Turns of the user that are decided again for a sticky route: each costs as much as the conversation before it is long.
_MAX_DECIDED_AGAIN = 32


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision with what it was made from, and how long making it took."""

    features: Features
    decision: Decision
    took_ms: float = 0.0
    health: Health = Health()


class Router:
    """Decides where calls go; remembers of earlier ones only how many of an owner's went which way.

    Args:
        rules: returns the rules to use now; they may change between calls.
        meters: told where calls went.

    Attributes:
        meters: as given.
    """

    def __init__(self, rules: Callable[[], Rules], meters: Meters = UNMETERED) -> None:
        self._rules = rules
        self.meters = meters
        self._taken: OrderedDict[str, deque[Route]] = OrderedDict()

    def route(self, call: Call, health: Health, rules: Rules | None = None) -> Routed:
        """Decide, by the rules given instead of those in use if there are some."""
        began = time.perf_counter()
        rules = rules or self._rules()
        context = Context(
            owner=call.owner,
            dial=call.dial,
            route_shares=self._shares(call.owner),
            bucket=bucket_of(conversation_id(call)),
            image_keys=frozenset(image.sha256 for image in call.images),
            previous=_previous(call, rules) if rules.is_sticky else None,
        )
        features = measure(to_question(call), call.hints)
        decision = _with_thinking(decide(features, rules, health, context), call.wants_thinking)
        return Routed(features, decision, 1000 * (time.perf_counter() - began), health)

    def count(self, call: Call, decision: Decision) -> None:
        """Remember, for quotas and metrics, that a call really went where it was sent."""
        self.meters.decided(decision.route, decision.engine, decision.rule)
        taken = self._taken.pop(call.owner, None) or deque(maxlen=_WINDOW)
        taken.append(decision.route)
        self._taken[call.owner] = taken
        if len(self._taken) > _MAX_OWNERS:
            self._taken.popitem(last=False)

    def _shares(self, owner: str) -> dict[Route, float]:
        taken = self._taken.get(owner, ())
        total = max(len(taken), _LEAST_WINDOW)
        routes: tuple[Route, ...] = ("fast", "deep")
        return {route: taken.count(route) / total for route in routes}


def _with_thinking(decision: Decision, wish: bool | None) -> Decision:
    """Let GLM think, or not, where it answers alone; Owl2 cannot, and a draft is there to be early."""
    if wish is None:
        return decision
    if decision.engine == "glm":
        return replace(decision, enable_thinking=wish)
    if not wish:
        return decision
    return replace(
        decision,
        degraded=(*decision.degraded, texts.NO_THINKING.en),
        degraded_zh=(*decision.degraded_zh, texts.NO_THINKING.zh),
    )


def to_question(call: Call) -> Question:
    """Take from a call what the policy looks at: the new user turn, and apart from it what came before."""
    place = place_of_question([message.role for message in call.messages], lambda at: call.messages[at].text)
    # What a function returned is part of the turn that it was called in.
    earlier, (last, *results) = call.messages[:place], call.messages[place:]
    return Question(
        text=last.text if last.role == "user" else "",
        history=tuple(message.text for message in earlier if message.role == "user"),
        image_keys=tuple(image.sha256 for message in (last, *results) for image in message.images),
        history_image_keys=tuple(image.sha256 for message in earlier for image in message.images),
        system_text="\n".join(message.text for message in earlier if message.role == "system"),
        uses_tools=call.uses_tools,
    )


def conversation_id(call: Call) -> str:
    """Name a conversation by its owner and its first user turn, which every later request repeats."""
    first = next((message for message in call.messages if message.role == "user"), call.messages[0])
    text = first.text
    return "\x00".join((call.owner, str(len(text)), text[:_MAX_NAMED], *(image.sha256 for image in first.images)))


def plan_branches(
    call: Call, decision: Decision, health: Health, max_images: Mapping[str, int | None] | None = None
) -> tuple[BranchPlan, ...]:
    """Say who answers a job, the one whose answer is final last.

    A deep job has a draft by GLM beside it, unless GLM is not wanted (`wants_glm`) or does not take so many pictures: a
    draft from some of them would be an answer to another question. Owl2 has as many branches as the pictures take.

    Args:
        call: what was asked.
        decision: of the policy.
        health: of the engines.
        max_images: how many pictures an engine takes at a time; None while that is not known.
    """
    limits = max_images or {}
    is_second_look = decision.route == "deep" and decision.enable_thinking
    if decision.engine == "glm" and not is_second_look:
        return (BranchPlan("fast", "glm", enable_thinking=decision.enable_thinking),)
    wants_draft = wants_glm(call, health) and fits(call, limits.get("glm"))
    draft = (BranchPlan("draft", "glm"),) if wants_draft else ()
    thinking = (BranchPlan("thinking", "glm", enable_thinking=True),)
    if decision.engine == "glm":
        return (*draft, *thinking)
    deep = groups.to_branches(len(call.images), limits.get("owl2"))
    return (*draft, *thinking, *deep) if wants_draft and "glm-thinking" in decision.panel else (*draft, *deep)


def wants_glm(call: Call, health: Health) -> bool:
    """Whether GLM has a part in a deep job: it is up, and who names one model wants that model."""
    return call.hints.engine != "owl2" and health.of("glm").is_up


def fits(call: Call, max_images: int | None) -> bool:
    """Whether an engine takes all pictures of a call at a time, as far as is known."""
    return max_images is None or len(call.images) <= max_images


def plan_merge(
    branches: tuple[BranchPlan, ...],
    wanted: str | None,
    language: str,
    *,
    has_schema: bool = False,
    has_fields: bool = False,
    is_alone: bool = False,
) -> str:
    """Say how the branches' answers become one.

    Owl2's Chinese is weak, so a question in Chinese, or one to be answered in Chinese (``language``), gets an answer
    that GLM composes from both. GLM's own second thoughts need no composing. JSON that follows a schema with fields is
    merged field by field; any other JSON is GLM's, from both answers, since Owl2 has no constrained decoding. The
    groups of a request for Owl2 alone (``is_alone``) are put together by Owl2.
    """
    if len(branches) == 1:
        return "single"
    if branches[-1].pictures and is_alone:
        return "deep"
    if branches[-1].pictures and (has_schema or wanted == "fields"):
        return "compose"  # what groups find has no fields that could be compared
    if branches[-1].engine == "glm":
        return "deep"
    if has_schema:
        return wanted or ("fields" if has_fields else "compose")
    return wanted or ("compose" if language == "zh" else "deep")


def has_fields(call: Call) -> bool:
    """Whether the answers to a call can be merged field by field: a schema names them, and answers can be checked."""
    schema = call.sampling.json_schema
    is_named = call.output_format is not None and call.output_format.type == "json_schema"
    return is_named and schema is not None and can_check(schema)


def _previous(call: Call, rules: Rules) -> Previous | None:
    """Decide the conversation's first and last earlier turns again, oldest first, as they were decided then.

    The request carries the whole conversation, so nothing has to be stored for that. The engines' health of then is not
    known; a turn that was answered by the other engine only because one was down does not stick.
    """
    previous: Previous | None = None
    turns = [index for index, message in enumerate(call.messages[:-1]) if message.role == "user"]
    for index in turns[:1] + turns[1:][1 - _MAX_DECIDED_AGAIN :]:
        earlier = replace(call, messages=call.messages[: index + 1])
        image_keys = frozenset(image.sha256 for image in earlier.images)
        context = Context(owner=call.owner, dial=call.dial, previous=previous, image_keys=image_keys)
        decision = decide(measure(to_question(earlier), call.hints), rules, Health(), context)
        previous = Previous(decision.route, decision.engine, image_keys)
    return previous
