"""From a job record to the objects callers see: the Responses object, the chat completion, our own job view.

In: a `Job`. Out: JSON-able dicts in OpenAI's shapes with the ``hybrid`` extension. Pure functions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from engines.base import TokenLogprob, Usage
from engines.http.answers import to_usage
from engines.http.tools import to_wire_calls
from engines.json_forms import to_boxes, to_choice_logprobs, to_logprobs
from router.answers.groups import to_states
from router.api.call_items import call_items
from router.api.timings import to_server_timing, to_timings
from router.cache.store import age_s
from router.call import DraftAs, stored_image_hashes
from router.jobs.job import MERGE, Job, JobSpec
from router.jobs.results import FinalAnswer, UnitResult, add_usage

Json = dict[str, Any]

# As much of a question as a list shows.
MAX_QUESTION: Final = 120
MIN_POLL_MS: Final = 250
MAX_POLL_MS: Final = 5000


@dataclass(frozen=True, slots=True)
class Items:
    """A job's output items, as its stream announced them.

    Attributes:
        draft: id of the draft.
        final: id of the final answer.
        before: the items before the final answer, as a finished object lists them. An item's place in ``output`` is the
            ``output_index`` that the stream gave it.
    """

    draft: str
    final: str
    before: tuple[Json, ...] = ()

    @classmethod
    def usual(cls, job: Job) -> Items:
        """Return those of a job whose draft was whole before its answer began, and none of whose runs began again."""
        draft, form = item_id(job.id, 0, job.spec.draft_as), job.spec.draft_as
        before: tuple[Json, ...] = ()
        if job.draft is not None and job.draft.text and form == "reasoning":
            before = (reasoning_item(draft, draft_title(job.spec) + job.draft.text, "completed"),)
        elif job.draft is not None and job.draft.text and form == "message":
            before = (passed_message(draft, "commentary", "completed"),)
        return cls(draft, item_id(job.id, 1), before)


def to_response(job: Job, items: Items | None = None) -> Json:
    """Return the Responses object of a job, whatever its state.

    While it runs, ``output`` holds the draft once it is there, so that a naive poller prints something useful. At the
    end it holds the items of the stream, each at its ``output_index``, the final answer last; the final answer is the
    only one with text in it, as clients join the text of all messages. The draft is in ``hybrid.draft`` too.

    Args:
        job: the record.
        items: what its stream called its items; None for the usual ids (`router.api.stream.find_items`).
    """
    spec = job.spec
    items = items or Items.usual(job)
    if job.final is not None:
        calls = job.final.tool_calls
        message = [_message(items.final, job.final, "final_answer")] if job.final.text or not calls else []
        output = [*items.before, *message, *call_items(job.id, calls, is_cut=job.final.is_cut)]
    elif job.draft is not None and not job.is_terminal:
        # Whatever it is in the stream, a poll shows it as a message.
        output = [_message(f"msg_{items.draft.partition('_')[2]}", job.draft, "commentary")]
    else:
        output = []
    return {
        "id": job.id,
        "object": "response",
        "created_at": int(spec.created_at),
        "status": job.state,
        "background": spec.is_background,
        "completed_at": int(job.completed_at) if job.completed_at and job.state == "completed" else None,
        "error": _response_error(job),
        "incomplete_details": _incomplete_details(job),
        "instructions": spec.instructions,
        "max_output_tokens": spec.sampling.max_tokens,
        "max_tool_calls": spec.echo.get("max_tool_calls"),
        "metadata": dict(spec.metadata),
        "model": job.final.model if job.final else spec.model,
        "output": output,
        "parallel_tool_calls": spec.echo.get("parallel_tool_calls", False),
        "frequency_penalty": spec.sampling.frequency_penalty,
        "presence_penalty": spec.sampling.presence_penalty,
        "previous_response_id": spec.previous_response_id,
        "prompt_cache_key": spec.echo.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": spec.echo.get("safety_identifier"),
        "service_tier": _tier_of(spec),
        "store": spec.is_stored,
        "temperature": spec.sampling.temperature or 0.0,
        "text": {
            "format": spec.output_format.to_wire(spec.sampling.json_schema) if spec.output_format else {"type": "text"}
        },
        "tool_choice": spec.echo.get("tool_choice", "none"),
        "tools": spec.echo.get("tools", []),
        "top_logprobs": spec.sampling.top_logprobs or 0,
        "top_p": spec.sampling.top_p,
        "truncation": spec.echo.get("truncation", "disabled"),
        "usage": to_response_usage(job.final.written) if job.final is not None else None,
        "user": spec.echo.get("user"),
        "hybrid": to_hybrid(job, items),
    }


def to_completion(job: Job, answer: FinalAnswer | UnitResult) -> Json:
    """Return the chat completion of an answer: the final one, or a draft whose final is still to come."""
    message: Json = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message |= {"content": answer.text or None, "tool_calls": to_wire_calls(answer.tool_calls)}
    return {
        "id": completion_id(job.id),
        "object": "chat.completion",
        "created": int(job.spec.created_at),
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None if job.spec.sampling.top_logprobs is None else to_choice_logprobs(answer.logprobs),
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": to_usage(answer.written),
        "system_fingerprint": None,
        "hybrid": to_hybrid(job),
    }


def to_chunk(
    job: Job,
    model: str,
    delta: Json | None = None,
    *,
    finish_reason: str | None = None,
    usage: Usage | None = None,
    logprobs: Iterable[TokenLogprob] = (),
    has_usage: bool = False,
    hybrid: Json | None = None,
) -> Json:
    """Return one chunk of a chat stream; ``delta=None`` makes the last, choice-less one that carries the usage."""
    chunk: Json = {
        "id": completion_id(job.id),
        "object": "chat.completion.chunk",
        "created": int(job.spec.created_at),
        "model": model,
        "choices": []
        if delta is None
        else [
            {
                "index": 0,
                "delta": delta,
                "logprobs": to_choice_logprobs(logprobs) if logprobs else None,
                "finish_reason": finish_reason,
            }
        ],
        "system_fingerprint": None,
    }
    if has_usage:
        chunk["usage"] = to_usage(usage) if usage else None
    if hybrid is not None:
        chunk["hybrid"] = hybrid
    return chunk


def to_hybrid(job: Job, items: Items | None = None) -> Json:
    """Return the ``hybrid`` extension: how the request was routed, how far it is, and what each engine did.

    What is degraded is said in the question's language, so that every view of an answer says the same.

    Args:
        job: the record.
        items: as `to_response` has them.
    """
    decision = job.spec.decision
    degraded, degraded_zh = (
        list(getattr(job.final, name) if job.final else decision.get(name, ())) for name in ("degraded", "degraded_zh")
    )
    is_translated = job.spec.language == "zh" and len(degraded_zh) == len(degraded)
    hybrid: Json = {
        "route": decision["route"],
        "engine": decision["engine"],
        "rule": decision["rule"],
        "reasons": decision["reasons"],
        "preset": decision["preset"],
        "stage": "final" if job.final else "draft" if job.draft and not job.is_terminal else None,
        "response_id": job.id if job.is_announced else None,
        "merge": job.spec.strategy,
        "degraded": degraded_zh if is_translated else degraded,
        "branches": [
            {
                "name": branch.name,
                "engine": branch.engine,
                "state": job.units[branch.name].state,
                "model": unit.model or None if (unit := job.units[branch.name].result) else None,
                "duration_s": unit.duration_s if unit else None,
                "ttft_s": unit.ttft_s if unit else None,
                "failure": unit.error if unit else None,
            }
            for branch in job.spec.branches
        ],
        "timings": to_timings(job),
        "usage": _to_spent(job),
    }
    if job.spec.is_captured:
        hybrid["captured"] = True
    if job.spec.cache:
        hybrid["cache"] = {"status": job.spec.cache, "age_s": age_s(job)}
    if grouped := to_states(job):
        hybrid["groups"] = grouped
    if job.place is not None:
        hybrid["queue"] = {"position": job.place.position, "eta_ms": job.place.eta_ms}
    if job.spec.output_format is not None and job.spec.output_format.template is not None:
        hybrid["template"] = job.spec.output_format.template
    if (shown := job.final or job.draft) is not None:
        hybrid["boxes"] = to_boxes(shown.boxes)
    if job.draft is not None:
        draft_id = (items or Items.usual(job)).draft
        hybrid["draft"] = {"item_id": draft_id, "model": job.draft.model, "text": job.draft.text}
        if job.draft.boxes:
            hybrid["draft"]["boxes"] = to_boxes(job.draft.boxes)
    if job.final is not None:
        hybrid["engine"] = job.final.engine
        hybrid["merge"] = job.final.strategy
        hybrid["agreement"] = job.final.agreement
        hybrid["agreement_basis"] = list(job.final.agreement_basis)
        hybrid["conflicts"] = list(job.final.conflicts)
        if job.final.provenance:
            hybrid["provenance"] = dict(job.final.provenance)
    return hybrid


def to_job_view(job: Job) -> Json:
    """Return ``GET /v1/jobs/{id}``: the record as operators see it, units and runs included."""
    return {
        "id": job.id,
        "object": "job",
        "status": job.state,
        "created_at": job.spec.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "decision": dict(job.spec.decision),
        "merge": job.spec.strategy,
        "batch_id": job.spec.batch_id or None,
        "units": [
            {
                "name": unit.name,
                "status": unit.state,
                "runs": unit.epoch,
                "failures": unit.failures,
                "result": unit.result.to_dict() if unit.result else None,
            }
            for unit in job.units.values()
        ],
        "final": job.final.to_dict() if job.final else None,
        "failure": job.error,
    }


def to_job_summary(job: Job) -> Json:
    """Return a job as lists have it: short."""
    spec = job.spec
    return {
        "id": job.id,
        "object": "job",
        "status": job.state,
        "created_at": spec.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "model": spec.model,
        "route": spec.decision["route"],
        "engines": [branch.engine for branch in spec.branches],
        "question": spec.question[:MAX_QUESTION],
        "num_images": len(stored_image_hashes(spec.messages)),
        "metadata": dict(spec.metadata),
        "previous_response_id": spec.previous_response_id,
        "batch_id": spec.batch_id or None,
        "queue": {"position": job.place.position, "eta_ms": job.place.eta_ms} if job.place else None,
        "units": [{"name": unit.name, "status": unit.state} for unit in job.units.values()],
        "failures": sum(unit.failures for unit in job.units.values()),
        "failure": job.error,
    }


def to_route_headers(job: Job, timings: Mapping[str, float] | None = None) -> dict[str, str]:
    """Return the headers that show the decision on every answer, and where the time went, as far as is known.

    The id is among them if it leads somewhere.

    Args:
        job: the record.
        timings: `to_timings` of it, where that is known already.
    """
    decision = job.spec.decision
    headers = {
        "x-glowl-route": str(decision["route"]),
        "x-glowl-engine": job.final.engine if job.final else str(decision["engine"]),
        "x-glowl-rule": str(decision["rule"]),
    }
    if job.is_announced:
        headers["x-glowl-response-id"] = job.id
    if job.spec.cache:
        headers["x-glowl-cache"] = job.spec.cache
    if (age := age_s(job)) is not None:
        headers["age"] = str(age)
    if timings := to_timings(job) if timings is None else timings:
        headers["server-timing"] = to_server_timing(timings)
    return headers


def to_poll_headers(job: Job, eta_ms: float | None = None) -> dict[str, str]:
    """Return `to_route_headers`, and for an unfinished response when to ask again.

    Args:
        job: the record.
        eta_ms: how long it will still take, if that is known.
    """
    headers = to_route_headers(job)
    if not job.is_terminal:
        # Half of what is left; without an estimate, a quarter of what has passed: late by a quarter at most.
        wait_ms = eta_ms / 2 if eta_ms is not None else (time.time() - job.spec.created_at) * 1000 / 4
        headers["openai-poll-after-ms"] = str(int(min(max(wait_ms, MIN_POLL_MS), MAX_POLL_MS)))
    return headers


def item_id(job_id: str, index: int, form: DraftAs = "message") -> str:
    """Return the id of an output item, by its number and by what the stream makes of it."""
    return f"{'rs' if form == 'reasoning' else 'msg'}_{job_id.removeprefix('resp_')}_{index}"


def completion_id(job_id: str) -> str:
    """Return the chat completion's id that belongs to a response id."""
    return f"chatcmpl-{job_id.removeprefix('resp_')}"


def to_response_usage(usage: Usage) -> Json:
    """Return usage as Responses objects have it."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def message_item(item: str, text: str, phase: str, status: str, logprobs: Iterable[TokenLogprob] = ()) -> Json:
    """Return an output item; without text it has no content part yet."""
    content = [output_text(text, logprobs)] if text or status != "in_progress" else []
    return {"id": item, "type": "message", "role": "assistant", "status": status, "phase": phase, "content": content}


def passed_message(item: str, phase: str, status: str) -> Json:
    """Return a message that the final answer takes the place of: without its text, which clients would join."""
    return {**message_item(item, "", phase, "in_progress"), "status": status}


def reasoning_item(item: str, text: str | None, status: str) -> Json:
    """Return an output item that clients show as thinking, and never as part of the answer."""
    summary = [] if text is None else [{"type": "summary_text", "text": text}]
    return {"id": item, "type": "reasoning", "status": status, "summary": summary}


def draft_model(spec: JobSpec) -> str:
    """Return who writes a job's draft, as far as that was known when it was accepted."""
    return next((branch.model for branch in spec.branches if branch.name == "draft" and branch.model), "GLM-4.6V-Flash")


def draft_title(spec: JobSpec) -> str:
    """Return the words above a draft that is shown as reasoning, in the question's language."""
    model = draft_model(spec)
    return f"**{model} 的草稿**\n\n" if spec.language == "zh" else f"**Draft by {model}**\n\n"


def output_text(text: str, logprobs: Iterable[TokenLogprob] = ()) -> Json:
    """Return a text part of an output item."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": to_logprobs(logprobs)}


def _message(item: str, answer: FinalAnswer | UnitResult, phase: str) -> Json:
    # What was cut behind a call is the call.
    is_whole = answer.finish_reason in ("stop", "tool_calls") or answer.tool_calls
    status = "completed" if is_whole else "incomplete"
    return message_item(item, answer.text, phase, status, answer.logprobs)


def _incomplete_details(job: Job) -> Json | None:
    if job.state != "incomplete":
        return None
    is_filtered = job.final is not None and job.final.finish_reason == "content_filter"
    return {"reason": "content_filter" if is_filtered else "max_output_tokens"}


def _response_error(job: Job) -> Json | None:
    if job.error is None:
        return None
    return {
        "code": job.error.get("code", "server_error"),
        "message": job.error.get("message", "the request failed"),
        "param": job.error.get("param"),
        "type": None,
    }


def _tier_of(spec: JobSpec) -> str:
    """Return the tier that a request was served in: what it asked for, if that means anything here."""
    tier = spec.echo.get("service_tier")
    return tier if tier in ("priority", "flex") else "default"


def _to_spent(job: Job) -> Json:
    """Return what each branch cost, what the merge did, and the sum: ``usage`` is of the answer alone."""
    branches = {
        branch.name: unit.result.usage for branch in job.spec.branches if (unit := job.units[branch.name]).result
    }
    total = add_usage(*branches.values()) if job.final is None else job.final.usage
    spent = {name: to_response_usage(usage) for name, usage in branches.items()}
    if merged := _difference(total, *branches.values()):
        spent[MERGE] = to_response_usage(merged)
    return {"total": to_response_usage(total), "branches": spent}


def _difference(total: Usage, *parts: Usage) -> Usage | None:
    known = add_usage(*parts)
    if known == total:  # nothing was merged
        return None
    left = {each.name: getattr(total, each.name) - getattr(known, each.name) for each in fields(Usage)}
    return Usage(**left) if any(value > 0 for value in left.values()) else None
