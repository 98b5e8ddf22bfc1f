"""The merge: from what each branch said to the one final answer.

In: a job whose branches are all terminal. Out: a `FinalAnswer`, a `ComposeRequest` that GLM has to write first, or the
error that leaves no answer. Pure functions; the tasks do the talking.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from router.jobs.job import FinalAnswer, Job, UnitResult, add_usage

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

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LATIN_WORD = re.compile(r"[a-zA-ZÀ-ɏ]+")
_HAN = re.compile(r"[㐀-鿿]")


@dataclass(frozen=True, slots=True)
class ComposeRequest:
    """GLM still has to write the final answer: the strategy is ``compose``, or a schema is asked for and Owl2 has none.

    Attributes:
        prompt: replaces the text of the last user turn; the pictures stay where they are.
        fallback: the final answer if GLM cannot write one.
        has_fallback: False if the fallback would not be what was asked for: then there is no answer without GLM.
    """

    prompt: str
    fallback: FinalAnswer
    has_fallback: bool = True


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Every branch failed.

    Attributes:
        error: ``{"code", "message", ...}`` for the Responses object.
    """

    error: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two answers say the same.

    Attributes:
        score: 0 to 1; None if they have nothing that can be compared, such as different scripts and no numbers.
        basis: what was compared: ``numbers``, ``tokens``.
    """

    score: float | None
    basis: tuple[str, ...]


def resolve(job: Job, question: str) -> FinalAnswer | ComposeRequest | NoAnswer:
    """Decide what the branches' results amount to.

    Args:
        job: all branches terminal.
        question: the text of the last user turn.
    """
    main = job.spec.branches[-1]
    results = {branch.name: job.units[branch.name].result or UnitResult() for branch in job.spec.branches}
    answers = {name: result for name, result in results.items() if job.units[name].state == "completed"}
    degraded = list(job.spec.decision.get("degraded", []))
    usage = add_usage(*(result.usage for result in results.values()))

    if not answers:
        failed = results[main.name].error or next((result.error for result in results.values() if result.error), None)
        return NoAnswer(failed or {"code": "server_error", "message": "no engine gave an answer"})

    for branch in job.spec.branches:
        if branch.name not in answers:
            error = results[branch.name].error or {}
            code, message = error.get("code", "unknown"), error.get("message", "unknown error")
            degraded.append(f"{branch.engine} gave no answer ({code}): {message}")

    chosen = next(name for name in (main.name, "thinking", *answers) if name in answers)
    engine = next(branch.engine for branch in job.spec.branches if branch.name == chosen)
    answer = answers[chosen]
    agreement = Agreement(None, ())
    # Beside Owl2, GLM's best answer is the one it thought about; that one itself is compared with the draft.
    by_glm = (answers.get("thinking") if main.name == "deep" else None) or answers.get("draft")
    has_schema = job.spec.sampling.json_schema is not None
    if by_glm is not None and chosen == main.name and not (has_schema and engine == "owl2"):  # JSON beside prose
        agreement = compare(by_glm.text, answer.text)
    final = FinalAnswer(
        text=answer.text,
        model=answer.model,
        engine=engine,
        strategy="single" if len(job.spec.branches) == 1 else "deep" if chosen == main.name else chosen,
        finish_reason=answer.finish_reason,
        agreement=agreement.score,
        agreement_basis=agreement.basis,
        degraded=tuple(degraded),
        usage=usage,
        logprobs=answer.logprobs,
        boxes=answer.boxes,
    )
    if has_schema and engine == "owl2":
        return _into_form(job, question, final, by_glm, results)
    if job.spec.strategy == "compose" and by_glm is not None and "deep" in answers:
        prompt = compose_prompt(question, by_glm.text, answers["deep"].text, job.spec.language)
        return ComposeRequest(prompt, fallback=final)
    return final


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
        strategy=next(name for name, result in results.items() if result is by_glm),
        finish_reason=by_glm.finish_reason,
        logprobs=by_glm.logprobs,
        boxes=by_glm.boxes,
    )
    prompt = compose_prompt(question, by_glm.text, final.text, language)
    return ComposeRequest(prompt, fallback, has_fallback=by_glm.finish_reason == "stop")


def composed(request: ComposeRequest, result: UnitResult) -> FinalAnswer | NoAnswer:
    """Turn what GLM wrote into the final answer; if it failed, fall back to another answer and say so."""
    if result.error or not result.text.strip():
        reason = (result.error or {}).get("message", "it wrote nothing")
        if not request.has_fallback:
            message = f"Only GLM can write the answer in the form that was asked for, and it failed: {reason}"
            error = {"code": "server_error", "param": None, "status": 500, "retryable": True, **(result.error or {})}
            return NoAnswer({**error, "message": message})
        return replace(
            request.fallback,
            degraded=(*request.fallback.degraded, f"the answers could not be composed by glm: {reason}"),
        )
    return replace(
        request.fallback,
        text=result.text,
        model=result.model,
        engine="glm",
        strategy="compose",
        finish_reason=result.finish_reason,
        usage=add_usage(request.fallback.usage, result.usage),
        logprobs=result.logprobs,
        boxes=result.boxes,
    )


def compose_prompt(question: str, draft: str, deep: str, language: str) -> str:
    """Write the instruction under which GLM composes the final answer, in the language of the question."""
    if language == "zh":
        return _COMPOSE_ZH.format(question=question, draft=draft, deep=deep)
    named = "English" if language == "en" else "the language of the question"
    return _COMPOSE_EN.format(question=question, draft=draft, deep=deep, language=named)


def compare(first: str, second: str) -> Agreement:
    """Score how far two answers agree, from their numbers and, when both are in the same script, their words.

    Each part is an F1 of multisets; the score is their mean. Words are Latin words and pairs of neighbouring Han
    characters, lower-cased, full-width folded to half-width.
    """
    left, right = (unicodedata.normalize("NFKC", text).lower() for text in (first, second))
    parts: dict[str, float] = {}
    numbers = [Counter(match.replace(",", "") for match in _NUMBER.findall(text)) for text in (left, right)]
    if numbers[0] and numbers[1]:
        parts["numbers"] = _f1(*numbers)
    if _is_mostly_han(left) == _is_mostly_han(right):
        tokens = [_tokens(text) for text in (left, right)]
        if tokens[0] and tokens[1]:
            parts["tokens"] = _f1(*tokens)
    if not parts:
        return Agreement(None, ())
    return Agreement(round(sum(parts.values()) / len(parts), 3), tuple(parts))


def _tokens(text: str) -> Counter[str]:
    han = "".join(_HAN.findall(text))
    pairs = [han[i : i + 2] for i in range(len(han) - 1)] or list(han)
    return Counter(_LATIN_WORD.findall(text)) + Counter(pairs)


def _is_mostly_han(text: str) -> bool:
    return len(_HAN.findall(text)) > len(_LATIN_WORD.findall(text))


def _f1(left: Counter[str], right: Counter[str]) -> float:
    shared = (left & right).total()
    return 2 * shared / (left.total() + right.total())
