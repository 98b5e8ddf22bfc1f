"""The merge: from what each branch said to the one final answer.

In: a job whose branches are all terminal. Out: a `FinalAnswer`, a `ComposeRequest` that GLM has to write first, or the
error that leaves no answer. Pure functions; the tasks do the talking.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from engines.json_check import UncheckableSchemaError, parse, to_check
from router.answers.agreement import Agreement, combine, compare, script_of
from router.answers.fields import merge_fields
from router.answers.json_answers import dump_json
from router.answers.usable import is_blank
from router.jobs.job import ErrorRecord, FinalAnswer, Job, UnitResult, add_usage

_COMPOSE_ZH: Final = (
    "下面是针对同一个问题和图片的两份回答。请结合图片核对，写出一份最终回答：用中文，直接回答问题，"
    "不要提到“两份回答”。两份回答不一致时，以图片为准。\n\n问题：{question}\n\n初步回答：{draft}\n\n深入分析（可能是英文）：{deep}"
)
_COMPOSE_EN: Final = (
    "Below are two answers to the same question about the same pictures. Check them against the pictures and write "
    "one final answer in {language}: answer the question directly and do not mention that there were two answers. "
    "Where they disagree, trust the pictures.\n\n"
    "Question: {question}\n\nFirst answer: {draft}\n\nDeeper analysis: {deep}"
)

_FORM_ZH: Final = (
    "下面是对图片和问题的分析（可能是英文）。请结合图片核对，按要求的格式写出最终回答，以图片为准。\n\n"
    "问题：{question}\n\n分析：{deep}"
)
_FORM_EN: Final = (
    "Below is an analysis of the question and the pictures. Check it against the pictures and write the final answer "
    "in the form that is asked for. Where they disagree, trust the pictures.\n\n"
    "Question: {question}\n\nAnalysis: {deep}"
)

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
        return NoAnswer(failed or {"code": "server_error", "message": "no engine gave an answer"})

    chosen = next(name for name in (main.name, "thinking", *answers) if name in answers)
    engine = next(branch.engine for branch in job.spec.branches if branch.name == chosen)
    answer = answers[chosen]
    agreement = _NOT_COMPARED
    # Beside Owl2, GLM's best answer is the one it thought about; that one itself is compared with the draft.
    by_glm = (answers.get("thinking") if main.name == "deep" else None) or answers.get("draft")
    has_schema = job.spec.sampling.json_schema is not None
    if by_glm is not None and chosen == main.name and not has_schema:
        agreement = compare(by_glm.text, answer.text, question)
    elif by_glm is not None and chosen == main.name and engine == "glm":
        agreement = _compare_json(by_glm.text, answer.text)
    final = FinalAnswer(
        text=answer.text,
        model=answer.model,
        engine=engine,
        strategy="single" if len(job.spec.branches) == 1 else "deep" if chosen == main.name else chosen,
        finish_reason=answer.finish_reason,
        degraded=tuple(job.spec.decision.get("degraded", ())),
        degraded_zh=tuple(job.spec.decision.get("degraded_zh", ())),
        usage=usage,
        answer_usage=answer.written,
        logprobs=answer.logprobs,
        boxes=answer.boxes,
    )
    final = _with_agreement(final, agreement)
    final = _with_missing(job, final, answers, results)
    if has_schema and engine == "owl2":
        if answer.json_state:
            return _by_field(job, final, answer, by_glm, results)
        if job.spec.strategy == "fields":
            final = _noted(
                final,
                "owl2 wrote no JSON that satisfies the schema: glm puts its answer into the form",
                "owl2 没有写出符合 schema 的 JSON：由 glm 将其回答整理成要求的格式",
            )
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
            code, message = error.get("code", "unknown"), error.get("message", "unknown error")
            final = _noted(
                final,
                f"{branch.engine} gave no answer ({code}): {message}",
                f"{branch.engine} 没有给出回答（{code}）：{error.get('message_zh', message)}",
            )
        elif answers[branch.name].finish_reason != "stop" and any(a.finish_reason == "stop" for a in answers.values()):
            final = _noted(
                final,
                f"{branch.engine}'s answer was cut ({answers[branch.name].finish_reason}), another one is complete",
                f"{branch.engine} 的回答被截断（{answers[branch.name].finish_reason}），另一份回答是完整的",
            )
    return final


def _by_field(
    job: Job, final: FinalAnswer, answer: UnitResult, by_glm: UnitResult | None, results: Mapping[str, UnitResult]
) -> FinalAnswer | NoAnswer:
    """Merge the JSON of both models, or take the only one there is."""
    if answer.json_state == "repaired":
        final = _noted(
            final,
            "owl2's JSON did not satisfy the schema at first and was repaired",
            "owl2 的 JSON 起初不符合 schema，已修复",
        )
    alone = replace(final, logprobs=(), provenance={"": "owl2"})
    if by_glm is None:
        refused = next(
            (each.error for each in results.values() if each.error and each.error.get("code") == _BAD_SCHEMA), None
        )
        return NoAnswer(refused) if refused else alone  # as on the fast route, whatever Owl2 makes of that schema
    if by_glm.finish_reason != "stop":  # half an object is none
        return _noted(alone, "glm's JSON was cut: owl2's stands alone", "glm 的 JSON 被截断：仅采用 owl2 的结果")
    try:
        value = parse(by_glm.text)
        is_reading = job.spec.output_format is not None and job.spec.output_format.template is not None
        merged = merge_fields(value, parse(answer.text), is_reading=is_reading)
        is_valid = merged.value == value or to_check(job.spec.sampling.json_schema or "{}")(merged.value) is None
    except (ValueError, RecursionError, UncheckableSchemaError) as error:
        log.warning("%s could not be merged by field: %s", job.id, error)
        merged, is_valid = None, False
    final = replace(
        final,
        text=by_glm.text,
        model=by_glm.model,
        engine="glm",
        finish_reason=by_glm.finish_reason,
        answer_usage=by_glm.written,
        logprobs=by_glm.logprobs,
        boxes=by_glm.boxes,
    )
    if merged is not None:
        final = _with_agreement(final, Agreement(merged.score, ("fields",), merged.conflicts))
    if merged is None or not is_valid:
        return _noted(
            replace(final, strategy=_name_of(by_glm, results), provenance={"": "glm"}),
            "the fields of both answers do not satisfy the schema together: glm's answer stands as a whole",
            "两份回答的字段合并后不符合 schema：整体采用 glm 的回答",
        )
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
            return NoAnswer(refused[0])  # it would refuse again: a schema it cannot follow, say
        form = _FORM_ZH if language == "zh" else _FORM_EN
        return ComposeRequest(form.format(question=question, deep=final.text), final, has_fallback=False)
    # GLM's own answer follows the schema, if it was not cut.
    fallback = replace(
        final,
        text=by_glm.text,
        model=by_glm.model,
        engine="glm",
        strategy=_name_of(by_glm, results),
        finish_reason=by_glm.finish_reason,
        answer_usage=by_glm.written,
        logprobs=by_glm.logprobs,
        boxes=by_glm.boxes,
    )
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
        reason, reason_zh = _why_not(result)
        if not request.has_fallback:
            message = f"Only GLM can write the answer in the form that was asked for, and it failed: {reason}"
            error: ErrorRecord = {"code": "server_error", "param": None, "status": 500, "retryable": True}
            return NoAnswer({**error, **(result.error or ErrorRecord()), "message": message})
        return _noted(
            request.fallback,
            f"the answers could not be composed by glm: {reason}",
            f"glm 未能写出最终回答：{reason_zh}",
        )
    if is_worse:
        fallback = _noted(
            fallback,
            f"glm's composed answer was cut ({result.finish_reason}), {fallback.engine}'s own one is complete",
            f"glm 整合的回答被截断（{result.finish_reason}），{fallback.engine} 自己的回答是完整的",
        )
    final = replace(
        fallback,
        text=result.text,
        model=result.model,
        engine="glm",
        strategy="compose",
        finish_reason=result.finish_reason,
        usage=add_usage(request.fallback.usage, result.usage),
        answer_usage=result.written,
        logprobs=result.logprobs,
        boxes=result.boxes,
    )
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
        final = FinalAnswer(
            text=answer.text,
            model=answer.model,
            engine=branch.engine,
            strategy="single" if len(job.spec.branches) == 1 else branch.name,
            finish_reason=answer.finish_reason,
            degraded=tuple(job.spec.decision.get("degraded", ())),
            degraded_zh=tuple(job.spec.decision.get("degraded_zh", ())),
            usage=add_usage(*(unit.result.usage for unit in job.units.values() if unit.result)),
            logprobs=answer.logprobs,
            boxes=answer.boxes,
        )
        return _noted(
            final,
            "the answers could not be merged, because of an error of this service: one of them stands alone",
            "由于本服务的错误，未能合并各份回答：仅采用其中一份",
        )
    message = "The answers could not be merged, because of an error of this service."
    return NoAnswer({"code": "internal_error", "message": message, "param": None, "status": 500, "retryable": False})


def compose_prompt(question: str, draft: str, deep: str, language: str) -> str:
    """Write the instruction under which GLM composes the final answer, in the language of the question."""
    if language == "zh":
        return _COMPOSE_ZH.format(question=question, draft=draft, deep=deep)
    named = "English" if language == "en" else "the language of the question"
    return _COMPOSE_EN.format(question=question, draft=draft, deep=deep, language=named)


def _compare_json(first: str, second: str) -> Agreement:
    """Compare two JSON answers field by field; one that was cut cannot be."""
    try:
        merged = merge_fields(parse(first), parse(second))
    except (ValueError, RecursionError):
        return Agreement()
    return Agreement(merged.score, ("fields",) if merged.score is not None else (), merged.conflicts)


def _why_not(result: UnitResult) -> tuple[str, str]:
    """Say, in English and in Chinese, why there is no answer in what GLM wrote."""
    if result.error:
        message = result.error.get("message", "unknown error")
        return message, result.error.get("message_zh", message)
    if is_blank(result.text):
        return "it wrote nothing", "没有写出任何内容"
    return f"its JSON was cut ({result.finish_reason})", f"其 JSON 被截断（{result.finish_reason}）"


def _with_agreement(final: FinalAnswer, agreement: Agreement) -> FinalAnswer:
    return replace(
        final,
        agreement=agreement.score,
        agreement_basis=agreement.basis,
        conflicts=tuple(conflict.to_dict() for conflict in agreement.conflicts),
    )


def _noted(final: FinalAnswer, english: str, chinese: str) -> FinalAnswer:
    return replace(final, degraded=(*final.degraded, english), degraded_zh=(*final.degraded_zh, chinese))


def _name_of(result: UnitResult, results: Mapping[str, UnitResult]) -> str:
    return next(name for name, each in results.items() if each is result)
