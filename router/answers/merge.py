"""The merge: from what each branch said to the one final answer.

In: a job whose branches are all terminal. Out: a `FinalAnswer`, a `ComposeRequest` that GLM has to write first, or the
error that leaves no answer. Pure functions; the tasks do the talking.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from engines.base import Usage
from engines.json_check import UncheckableSchemaError, parse, to_check
from policies.text import Text
from router.answers import texts
from router.answers.agreement import Agreement, combine, compare, script_of
from router.answers.fields import merge_fields
from router.answers.json_answers import dump_json
from router.answers.usable import is_blank
from router.jobs.job import Job
from router.jobs.results import ErrorRecord, FinalAnswer, UnitResult, add_usage, to_error_record

log = logging.getLogger(__name__)

_NOT_COMPARED: Final = Agreement()
_BAD_SCHEMA: Final = "invalid_json_schema"


@dataclass(frozen=True, slots=True)
class ComposeRequest:
    """GLM still has to write the final answer: the strategy is ``compose``, or a schema is asked for and Owl2 has none.

    Attributes:
        prompt: replaces the text of the last user turn; the pictures stay where they are.
        fallback: the final answer if GLM cannot write one.
        has_fallback: False if the fallback would not be what was asked for: then there is no answer without GLM.
        draft: GLM's own answer, to be compared with what it composes; empty if it was compared with Owl2's already, or
            there is none. Answers in different scripts have little that can be compared.
        question: what was asked.
        agreement: what draft and Owl2's answer had in common.
        is_json: the answers are JSON.
    """

    prompt: str
    fallback: FinalAnswer
    has_fallback: bool = True
    draft: str = ""
    question: str = ""
    agreement: Agreement = _NOT_COMPARED
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Every branch failed.

    Attributes:
        error: for the Responses object.
    """

    error: ErrorRecord


def resolve(job: Job, question: str) -> FinalAnswer | ComposeRequest | NoAnswer:
    """Decide what the branches' results amount to.

    Args:
        job: all branches terminal.
        question: the text of the last user turn.
    """
    main = job.spec.branches[-1]
    results = {branch.name: job.units[branch.name].result or UnitResult() for branch in job.spec.branches}
    answers = {name: result for name, result in results.items() if job.units[name].state == "completed"}
    usage = add_usage(*(result.usage for result in results.values()))

    if not answers:
        failed = results[main.name].error or next((result.error for result in results.values() if result.error), None)
        return NoAnswer(failed or to_error_record(texts.NO_ENGINE_ANSWERED, code="server_error"))

    chosen = next(name for name in (main.name, "thinking", *answers) if name in answers)
    engine = next(branch.engine for branch in job.spec.branches if branch.name == chosen)
    answer = answers[chosen]
    agreement = _NOT_COMPARED
    # Compare Owl2's answer with GLM's thinking answer if there is one, and that one with the draft.
    by_glm = (answers.get("thinking") if main.name == "deep" else None) or answers.get("draft")
    has_schema = job.spec.sampling.json_schema is not None
    if by_glm is not None and chosen == main.name and not has_schema:
        agreement = compare(by_glm.text, answer.text, question)
    elif by_glm is not None and chosen == main.name and engine == "glm":
        agreement = _compare_json(by_glm.text, answer.text)
    final = as_it_is(job, answer, engine, "deep" if chosen == main.name else chosen, usage)
    final = _with_agreement(final, agreement)
    final = _with_missing(job, final, answers, results)
    if has_schema and engine == "owl2":
        if answer.json_state:
            return _by_field(job, final, answer, by_glm, results)
        if job.spec.strategy == "fields":
            final = final.noted(texts.NO_SCHEMA_JSON)
        return _into_form(job, question, final, by_glm, results)
    if job.spec.strategy == "compose" and by_glm is not None and "deep" in answers:
        prompt = compose_prompt(question, by_glm.text, answers["deep"].text, job.spec.language)
        are_comparable = script_of(by_glm.text) == script_of(answers["deep"].text)
        return ComposeRequest(
            prompt, final, draft="" if are_comparable else by_glm.text, question=question, agreement=agreement
        )
    return final


def _with_missing(
    job: Job, final: FinalAnswer, answers: Mapping[str, UnitResult], results: Mapping[str, UnitResult]
) -> FinalAnswer:
    """Name the branches without an answer, and those whose answer was cut where another one is whole."""
    for branch in job.spec.branches:
        if branch.name not in answers:
            error: ErrorRecord = results[branch.name].error or {}
            code = error.get("code", "unknown")
            final = final.noted(texts.NO_ANSWER.fill(engine=branch.engine, code=code, message=message_of(error)))
        elif answers[branch.name].finish_reason != "stop" and any(a.finish_reason == "stop" for a in answers.values()):
            finish_reason = answers[branch.name].finish_reason
            final = final.noted(texts.ANSWER_CUT.fill(engine=branch.engine, finish_reason=finish_reason))
    return final


def _by_field(
    job: Job, final: FinalAnswer, answer: UnitResult, by_glm: UnitResult | None, results: Mapping[str, UnitResult]
) -> FinalAnswer | NoAnswer:
    """Merge the JSON of both models, or take the only one there is."""
    if answer.json_state == "repaired":
        final = final.noted(texts.JSON_REPAIRED)
    alone = replace(final, logprobs=(), provenance={"": "owl2"})
    if by_glm is None:
        refused = next(
            (each.error for each in results.values() if each.error and each.error.get("code") == _BAD_SCHEMA), None
        )
        return NoAnswer(refused) if refused else alone  # refuse as the fast route does, even if Owl2 answered
    if by_glm.finish_reason != "stop":  # a cut JSON object is unusable
        return alone.noted(texts.GLM_JSON_CUT)
    try:
        value = parse(by_glm.text)
        is_reading = job.spec.output_format is not None and job.spec.output_format.template is not None
        merged = merge_fields(value, parse(answer.text), is_reading=is_reading)
        is_valid = merged.value == value or to_check(job.spec.sampling.json_schema or "{}")(merged.value) is None
    except (ValueError, RecursionError, UncheckableSchemaError) as error:
        log.warning("%s could not be merged by field: %s", job.id, error)
        merged, is_valid = None, False
    final = _written_by_glm(final, by_glm)
    if merged is not None:
        final = _with_agreement(final, Agreement(merged.score, ("fields",), merged.conflicts))
    if merged is None or not is_valid:
        alone = replace(final, strategy=_name_of(by_glm, results), provenance={"": "glm"})
        return alone.noted(texts.FIELDS_DO_NOT_FIT)
    final = replace(final, strategy="fields", provenance=dict(merged.provenance))
    if merged.value == value:
        return final  # as GLM wrote it, byte for byte
    return replace(final, text=dump_json(merged.value), logprobs=())


def _into_form(
    job: Job, question: str, final: FinalAnswer, by_glm: UnitResult | None, results: Mapping[str, UnitResult]
) -> ComposeRequest | NoAnswer:
    """Let GLM put Owl2's answer, which is prose, into the form that was asked for."""
    language = job.spec.language
    if by_glm is None:
        refused = [result.error for name, result in results.items() if name != "deep" and result.error]
        if any(error["status"] < 500 and not error["retryable"] for error in refused):
            return NoAnswer(refused[0])  # GLM would refuse again, as with a schema that it cannot follow
        prompt = texts.FORM.fill(question=question, deep=final.text).of("zh" if language == "zh" else "en")
        return ComposeRequest(prompt, final, has_fallback=False)
    # GLM's own answer follows the schema, if it was not cut.
    fallback = replace(_written_by_glm(final, by_glm), strategy=_name_of(by_glm, results))
    prompt = compose_prompt(question, by_glm.text, final.text, language)
    is_whole = by_glm.finish_reason == "stop"
    return ComposeRequest(prompt, fallback, has_fallback=is_whole, draft=by_glm.text if is_whole else "", is_json=True)


def composed(request: ComposeRequest, result: UnitResult) -> FinalAnswer | NoAnswer:
    """Turn what GLM wrote into the final answer; if it failed, fall back to another answer and say so.

    A composed answer that was cut is no better than a complete one, and half a JSON object is none at all.
    """
    fallback = request.fallback
    is_worse = result.finish_reason != "stop" and request.has_fallback and fallback.finish_reason == "stop"
    if result.error or is_blank(result.text) or (is_worse and request.is_json):
        reason = _why_not(result)
        if not request.has_fallback:
            said = texts.ONLY_BY_GLM.fill(reason=reason)
            error = to_error_record(said, code="server_error", retryable=True)
            known = result.error or ErrorRecord()
            return NoAnswer({**error, **known, "message": said.en, "message_zh": said.zh})
        return request.fallback.noted(texts.NOT_COMPOSED.fill(engine="glm", reason=reason))
    if is_worse:
        note = texts.COMPOSED_CUT.fill(finish_reason=result.finish_reason, engine=fallback.engine)
        fallback = fallback.noted(note)
    usage = add_usage(request.fallback.usage, result.usage)
    final = replace(_written_by_glm(fallback, result), strategy="compose", usage=usage)
    if not request.draft:
        return final
    if request.is_json:
        later = _compare_json(request.draft, result.text)
    else:
        later = compare(request.draft, result.text, request.question)
    return _with_agreement(final, combine(request.agreement, later))


def without_merging(job: Job) -> FinalAnswer | NoAnswer:
    """Take one of the answers as it is, the one that was to be final first: merging them is what went wrong."""
    has_schema = job.spec.sampling.json_schema is not None
    units = [(branch, job.units[branch.name].answer) for branch in reversed(job.spec.branches) if not branch.pictures]
    for branch, answer in units:
        if answer is None or (has_schema and branch.engine == "owl2" and not answer.json_state):
            continue
        usage = add_usage(*(unit.result.usage for unit in job.units.values() if unit.result))
        return as_it_is(job, answer, branch.engine, branch.name, usage).noted(texts.NOT_MERGED)
    return NoAnswer(to_error_record(texts.MERGE_FAILED, code="internal_error"))


def compose_prompt(question: str, draft: str, deep: str, language: str) -> str:
    """Write the instruction under which GLM composes the final answer, in the language of the question."""
    said = texts.COMPOSE.fill(question=question, draft=draft, deep=deep, language=named_language(language))
    return said.of("zh" if language == "zh" else "en")


def named_language(language: str) -> Text:
    """Name the language that an answer is to be in, as instructions do."""
    return texts.QUESTION_LANGUAGE if language in ("en", "zh") else Text.same(texts.OTHER_LANGUAGE)


def message_of(error: ErrorRecord) -> Text:
    """Return what a record says went wrong."""
    message = error.get("message", "unknown error")
    return Text(message, error.get("message_zh", message))


def _compare_json(first: str, second: str) -> Agreement:
    """Compare two JSON answers field by field; one that was cut cannot be."""
    try:
        merged = merge_fields(parse(first), parse(second))
    except (ValueError, RecursionError):
        return Agreement()
    return Agreement(merged.score, ("fields",) if merged.score is not None else (), merged.conflicts)


def _why_not(result: UnitResult) -> Text:
    """Say why there is no answer in what GLM wrote."""
    if result.error:
        return message_of(result.error)
    if is_blank(result.text):
        return texts.WROTE_NOTHING
    return texts.JSON_CUT.fill(finish_reason=result.finish_reason)


def as_it_is(job: Job, answer: UnitResult, engine: str, strategy: str, usage: Usage) -> FinalAnswer:
    """Make one branch's answer the final one.

    Args:
        job: whose.
        answer: of the branch.
        engine: of the branch.
        strategy: what the final answer is called if it is not the only one.
        usage: of everything that ran.
    """
    return FinalAnswer(
        text=answer.text,
        model=answer.model,
        engine=engine,
        strategy="single" if len(job.spec.branches) == 1 else strategy,
        finish_reason=answer.finish_reason,
        stop_sequence=answer.stop_sequence,
        degraded=tuple(job.spec.decision.get("degraded", ())),
        degraded_zh=tuple(job.spec.decision.get("degraded_zh", ())),
        usage=usage,
        answer_usage=None if answer.written == usage else answer.written,
        logprobs=answer.logprobs,
        boxes=answer.boxes,
        tool_calls=answer.tool_calls,
    )


def _written_by_glm(final: FinalAnswer, answer: UnitResult) -> FinalAnswer:
    """Put what GLM wrote in the place of another engine's answer; strategy, notes and total usage stay."""
    return replace(
        final,
        text=answer.text,
        model=answer.model,
        engine="glm",
        finish_reason=answer.finish_reason,
        stop_sequence=answer.stop_sequence,
        answer_usage=answer.written,
        logprobs=answer.logprobs,
        boxes=answer.boxes,
    )


def _with_agreement(final: FinalAnswer, agreement: Agreement) -> FinalAnswer:
    return replace(
        final,
        agreement=agreement.score,
        agreement_basis=agreement.basis,
        conflicts=tuple(conflict.to_dict() for conflict in agreement.conflicts),
    )


def _name_of(result: UnitResult, results: Mapping[str, UnitResult]) -> str:
    return next(name for name, each in results.items() if each is result)
