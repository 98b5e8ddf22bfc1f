"""Many pictures: more than one context of Owl2 holds are looked at in groups, and one answer is made of the findings.

In: a job whose conversation has many pictures. Out: the branches that look at a group each, and what each is shown and
told; when they have ended, the same job with one ``deep`` unit in their place, so that merging need not know of groups,
and the prompt under which what they found becomes one answer. Pure functions.

Pictures are counted from 1 over the whole conversation, earlier turns included, in the order in which they were sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any, Final

from engines.base import SamplingParams
from policies.text import Language, Text
from router.answers import texts
from router.answers.agreement import Agreement
from router.answers.merge import ComposeRequest, message_of, named_language
from router.jobs.job import BranchPlan, Job, JobSpec, Unit
from router.jobs.results import ErrorRecord, FinalAnswer, UnitResult, add_usage

Span = tuple[int, int]
StoredMessage = dict[str, Any]

DEEP: Final = "deep"
# All findings together may take one part in this many of the context of the engine that combines them.
_FINDINGS_SHARE: Final = 2
_LEAST_FINDING_TOKENS: Final = 32
_MOST_FINDING_TOKENS: Final = 512
# For an engine that has not reported its limit yet: that of the published mPLUG-Owl2.
_UNKNOWN_MAX_IMAGES: Final = 4


def split(num_pictures: int, most: int) -> tuple[Span, ...]:
    """Split pictures into groups of neighbours: as few as can be, their sizes at most one apart, the larger ones first.

    Args:
        num_pictures: how many there are.
        most: how many a group may have; at least 1.

    Returns:
        The first and the last picture of each group, counted from 1.
    """
    num_groups = -(-num_pictures // most)
    bounds = [-(-num_pictures * index // num_groups) for index in range(num_groups + 1)] if num_groups else []
    return tuple((start + 1, end) for start, end in pairwise(bounds))


def to_branches(num_pictures: int, most: int | None) -> tuple[BranchPlan, ...]:
    """Return Owl2's branches of a job: ``deep``, or ``deep-1``, ``deep-2`` and so on if it takes several contexts.

    Args:
        num_pictures: of the conversation.
        most: how many Owl2 takes at a time; None if it has not said so yet.
    """
    spans = split(num_pictures, max(most or _UNKNOWN_MAX_IMAGES, 1))
    if len(spans) < 2:
        return (BranchPlan(DEEP, "owl2"),)
    return tuple(BranchPlan(f"{DEEP}-{number}", "owl2", pictures=span) for number, span in enumerate(spans, 1))


def groups_of(spec: JobSpec) -> tuple[BranchPlan, ...]:
    """Return the branches that look at a group of pictures each, in the order of the pictures."""
    return tuple(branch for branch in spec.branches if branch.pictures)


def shown_to(spec: JobSpec, branch: BranchPlan) -> list[StoredMessage]:
    """Return what of the conversation a branch is given: a group sees its own pictures and is told which they are.

    All texts stay, earlier turns' too. Where pictures are left out of an earlier turn, or from among texts ("A: ... B:
    ..."), a note in their place keeps the texts from being read with other pictures than they were written for.
    """
    if branch.pictures is None:
        return spec.messages
    *earlier, last = _show(spec.messages, branch.pictures, _in(spec))
    told = texts.GROUP.fill(named=_named(branch.pictures), total=num_pictures(spec)).of(_in(spec))
    parts = last["parts"]
    if [kind for kind, _ in groupby(part["type"] for part in parts)] == ["text", "image"]:
        # The engine moves pictures to the front only if no text follows them, and now this text does.
        parts = sorted(parts, key=lambda part: str(part["type"]))
    return [*earlier, {**last, "parts": [*parts, {"type": "text", "text": told}]}]


def sampling_for(spec: JobSpec, branch: BranchPlan, context_tokens: int) -> SamplingParams:
    """Return a branch's generation knobs: what callers say of the answer's form is not said of a group's findings.

    Args:
        spec: of the job.
        branch: of the job.
        context_tokens: of the branch's engine. All findings together take half of it, which leaves room to answer.
    """
    if branch.pictures is None:
        return spec.sampling
    share = context_tokens // _FINDINGS_SHARE // len(groups_of(spec))
    most = min(max(share, _LEAST_FINDING_TOKENS), _MOST_FINDING_TOKENS)
    return replace(spec.sampling, max_tokens=most, stop=(), top_logprobs=None, json_schema=None)


def num_pictures(spec: JobSpec) -> int:
    """Count the pictures of a job's conversation."""
    return sum(part["type"] == "image" for message in spec.messages for part in message["parts"])


def fold(job: Job, *, wants_all: bool = False) -> Job:
    """Put one ``deep`` unit in the place of a job's groups; a job without groups stays as it is.

    It is completed if any group is: its text is what was found, in the order of the pictures, and names the groups that
    failed; why they did is added to what the decision says is degraded, which every final answer repeats.

    Args:
        job: all branches terminal.
        wants_all: take findings from some of the pictures for no answer if GLM has one, which is from all of them.
    """
    groups = groups_of(job.spec)
    if not groups:
        return job
    units = [job.units[group.name] for group in groups]
    results = [unit.result or UnitResult() for unit in units]
    completed = [result for unit, result in zip(units, results, strict=True) if unit.answer]
    has_glm = any(job.units[branch.name].answer for branch in job.spec.branches if branch.engine == "glm")
    usage = add_usage(*(result.usage for result in results))
    spec = replace(job.spec, branches=(*(b for b in job.spec.branches if not b.pictures), BranchPlan(DEEP, "owl2")))
    if not completed or (wants_all and has_glm and len(completed) < len(results)):
        error = next((result.error for result in results if result.error), None)
        deep = Unit(DEEP, "failed", result=UnitResult(usage=usage, error=error))
    else:
        cuts = (result.finish_reason for result in completed if result.finish_reason != "stop")
        result = UnitResult(
            text="\n\n".join(_findings(job)),
            model=completed[0].model,
            finish_reason=next(cuts, "stop"),
            usage=usage,
            boxes=tuple(
                replace(box, image=box.image + _span(group)[0] - 1)
                for group, unit in zip(groups, units, strict=True)
                if unit.answer
                for box in unit.answer.boxes
            ),
        )
        deep = Unit(DEEP, "completed", result=result)
        spec = with_degraded(spec, [_failure(group, job) for group in failed_groups(job)])
    kept = {name: unit for name, unit in job.units.items() if name not in {group.name for group in groups}}
    return replace(job, spec=spec, units={**kept, DEEP: deep})


def failed_groups(job: Job) -> tuple[BranchPlan, ...]:
    """Return the groups of a job without an answer."""
    return tuple(group for group in groups_of(job.spec) if job.units[group.name].answer is None)


def wants_reduce(job: Job) -> bool:
    """Whether what the groups found has to be made into one answer before the branches are merged.

    Not if GLM composes the final answer from the findings anyway, or writes them into a form; nor if there are none.
    """
    if len(failed_groups(job)) == len(groups_of(job.spec)) or job.spec.sampling.json_schema is not None:
        return False
    return job.spec.strategy != "compose" or not any(
        job.units[branch.name].answer for branch in job.spec.branches if branch.engine == "glm"
    )


def without_pictures(spec: JobSpec) -> list[StoredMessage]:
    """Return the conversation for an engine that takes fewer pictures than it has."""
    return _show(spec.messages, None, _in(spec))


def reduce_messages(job: Job, most_chars: int | None = None) -> list[StoredMessage]:
    """Return the conversation, without its pictures, that ends in the request for one answer from what was found.

    Args:
        job: all branches terminal.
        most_chars: cut each finding there; None leaves them whole.
    """
    *earlier, last = without_pictures(job.spec)
    return [*earlier, {**last, "parts": [{"type": "text", "text": reduce_prompt(job, most_chars)}]}]


def reduce_prompt(job: Job, most_chars: int | None = None) -> str:
    """Return the request for one answer from what was found, in the language of the question."""
    said = texts.REDUCE.fill(
        total=num_pictures(job.spec),
        findings="\n\n".join(_findings(job, most_chars)),
        question=job.spec.question,
        language=named_language(job.spec.language),
    )
    return said.of(_in(job.spec))


def reduced(folded: Job, engine: str, result: UnitResult) -> Job:
    """Put the one answer that an engine wrote in the place of what the groups found."""
    deep = folded.units[DEEP]
    found = deep.result or UnitResult()
    answer = replace(result, usage=add_usage(found.usage, result.usage), last_usage=result.usage)
    branches = tuple(replace(b, engine=engine) if b.name == DEEP else b for b in folded.spec.branches)
    return replace(
        folded,
        spec=replace(folded.spec, branches=branches),
        units={**folded.units, DEEP: replace(deep, result=answer)},
    )


def with_degraded(spec: JobSpec, notes: Sequence[Text]) -> JobSpec:
    """Add to what a job's decision says is degraded."""
    added = {
        "degraded": [*spec.decision.get("degraded", ()), *(note.en for note in notes)],
        "degraded_zh": [*spec.decision.get("degraded_zh", ()), *(note.zh for note in notes)],
    }
    return replace(spec, decision={**spec.decision, **added})


def not_reduced(folded: Job, engine: str, reason: Text, *, is_last: bool) -> Job:
    """Say that an engine could not make one answer of the findings; after the last one, they are the answer."""
    note = (texts.NOT_REDUCED if is_last else texts.NOT_COMPOSED).fill(engine=engine, reason=reason)
    return replace(folded, spec=with_degraded(folded.spec, [note]))


def without_compose(folded: Job) -> Job:
    """Leave GLM out of the merge, after it could not compose."""
    return replace(folded, spec=replace(folded.spec, strategy="deep"))


def before_compose(job: Job, request: ComposeRequest) -> ComposeRequest:
    """Let GLM's own answer be compared with what it composes: findings are parts of an answer, and cannot be."""
    answers = [unit.answer for name in ("thinking", "draft") if (unit := job.units.get(name))]
    by_glm = next((answer for answer in answers if answer), None)
    if by_glm is None or request.is_json:
        return request
    return replace(request, draft=by_glm.text, question=job.spec.question, agreement=Agreement())


def after_compose(final: FinalAnswer, fallback: FinalAnswer) -> FinalAnswer:
    """Add to a merge without GLM what the one with it said is degraded."""
    missing = (sentence for sentence in fallback.degraded if sentence not in final.degraded)
    missing_zh = (sentence for sentence in fallback.degraded_zh if sentence not in final.degraded_zh)
    return replace(final, degraded=(*final.degraded, *missing), degraded_zh=(*final.degraded_zh, *missing_zh))


def finished(job: Job, folded: Job, final: FinalAnswer) -> FinalAnswer:
    """Return the final answer of a job with groups: it names its strategy, and the pictures that are missing.

    They are named in the text unless it does so already. A draft in the groups' place was made from all pictures, and
    JSON has no place for it: then ``degraded`` alone says so. Findings that stand for an answer agree with nothing.

    Args:
        job: all branches terminal.
        folded: what `fold` made of it.
        final: what the merge made of that.
    """
    if folded is job:
        return final
    deep = folded.units[DEEP].answer
    if deep is None or final.strategy in ("draft", "thinking"):
        return final
    final = replace(final, strategy="deep" if final.engine == "owl2" else "compose")
    if final.engine == "owl2" and deep.text == "\n\n".join(_findings(job)):
        # Findings about single groups have other numbers than the answer about all pictures.
        final = replace(final, agreement=None, agreement_basis=(), conflicts=())
    if job.spec.sampling.json_schema is not None:
        return final
    notes = [_missing(group).of(_in(job.spec)) for group in failed_groups(job)]
    return replace(final, text="\n\n".join([final.text, *(note for note in notes if note not in final.text)]))


def to_states(job: Job) -> list[dict[str, Any]]:
    """Return the groups as callers see them: branch, first and last picture, state."""
    return [
        {"branch": group.name, "pictures": list(_span(group)), "state": job.units[group.name].state}
        for group in groups_of(job.spec)
    ]


def _show(messages: Sequence[StoredMessage], pictures: Span | None, language: Language) -> list[StoredMessage]:
    """Return a conversation with the pictures of one group only, or none; notes stand for some of the others."""
    first, last = pictures or (0, -1)
    shown: list[StoredMessage] = []
    number = 0
    for index, message in enumerate(messages):
        wants_notes = index < len(messages) - 1 or _alternates(message["parts"])
        parts: list[dict[str, Any]] = []
        # Texts one by one, pictures by runs that are shown, or are not.
        numbered: list[tuple[dict[str, Any], int]] = []
        for part in message["parts"]:
            number += part["type"] == "image"
            numbered.append((part, number))
        for (is_image, is_shown), run in groupby(
            numbered, lambda each: (each[0]["type"] == "image", first <= each[1] <= last)
        ):
            members = list(run)
            if not is_image or is_shown:
                parts += [part for part, _ in members]
            elif wants_notes:
                parts.append({"type": "text", "text": _left_out((members[0][1], members[-1][1])).of(language)})
        shown.append({**message, "parts": parts})
    return shown


def _alternates(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is text between the pictures of a turn."""
    return [kind for kind, _ in groupby(part["type"] for part in parts)].count("image") > 1


def _findings(job: Job, most_chars: int | None = None) -> Iterator[str]:
    language = _in(job.spec)
    for group in groups_of(job.spec):
        answer = job.units[group.name].answer
        if answer is None:
            yield _missing(group).of(language)
            continue
        text = answer.text.strip()
        if most_chars is not None and len(text) > most_chars:
            text = text[:most_chars].rstrip() + "..."
        yield _capital(texts.FINDING.fill(named=_named(_span(group)), text=text)).of(language)


def _failure(group: BranchPlan, job: Job) -> Text:
    result = job.units[group.name].result or UnitResult()
    error: ErrorRecord = result.error or {}
    return texts.GROUP_FAILED.fill(
        named=_named(_span(group)), engine=group.engine, code=error.get("code", "unknown"), message=message_of(error)
    )


def _missing(group: BranchPlan) -> Text:
    return _capital(texts.GROUP_MISSING.fill(named=_named(_span(group))))


def _left_out(span: Span) -> Text:
    text = texts.ONE_LEFT_OUT if span[0] == span[1] else texts.SOME_LEFT_OUT
    return text.fill(named=_named(span))


def _named(span: Span) -> Text:
    first, last = span
    return (texts.ONE_PICTURE if first == last else texts.SOME_PICTURES).fill(first=first, last=last)


def _capital(sentence: Text) -> Text:
    return Text(sentence.en[0].upper() + sentence.en[1:], sentence.zh)


def _in(spec: JobSpec) -> Language:
    """The language in which models are told something: that of the question, if there are words in it."""
    return "zh" if spec.language == "zh" else "en"


def _span(group: BranchPlan) -> Span:
    assert group.pictures is not None
    return group.pictures
