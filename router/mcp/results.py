"""What a call returns: a text for models that read texts, and the same as an object.

In: an `Exchange`. Out: MCP's `CallToolResult`, never an empty one: the final answer, or the draft and the id that leads
to the final answer, or an error that says why there is none.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from mcp_types import CallToolResult, TextContent

from policies.text import Language, Text
from router.cli.responses import output_text
from router.mcp import texts
from router.mcp.exchange import Exchange

Json = dict[str, Any]

_TEXT_OR_NULL: Final[Json] = {"type": ["string", "null"]}
_TEXTS: Final[Json] = {"type": "array", "items": {"type": "string"}}
OUTPUT_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "is_final": {"type": "boolean"},
        "text": {"type": "string"},
        "id": _TEXT_OR_NULL,
        "status": {"type": "string"},
        "model": _TEXT_OR_NULL,
        "eta_s": {"type": ["number", "null"]},
        "fields": {"type": ["object", "null"]},
        "agreement": {"type": ["number", "null"]},
        "conflicts": _TEXTS,
        "degraded": _TEXTS,
    },
    "required": ["is_final", "text", "id", "status"],
}


def to_error(text: Text | str, language: Language) -> CallToolResult:
    """Return an error that the agent reads, and may mend its call by."""
    said = text if isinstance(text, str) else text.of(language)
    return CallToolResult(content=[TextContent(type="text", text=said)], is_error=True)


def to_result(exchange: Exchange, language: Language) -> CallToolResult:
    """Return what there is of an answer."""
    response = exchange.response
    status = response.get("status")
    if exchange.error is not None:
        return to_error(texts.FAILED.fill(message=exchange.error.get("message") or "?"), language)
    if status == "failed":
        return to_error(texts.FAILED.fill(message=(response.get("error") or {}).get("message") or "?"), language)
    if status == "cancelled":
        return to_error(texts.CANCELLED, language)
    if status in ("completed", "incomplete"):
        return _to_final(exchange, language)
    return _to_draft(exchange, language)


def _to_final(exchange: Exchange, language: Language) -> CallToolResult:
    response = exchange.response
    hybrid = response.get("hybrid") or {}
    text = output_text(response, phase="final_answer") or output_text(response)
    fields = None
    if ((response.get("text") or {}).get("format") or {}).get("type") != "text" and response["status"] == "completed":
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return to_error(texts.NO_OBJECT, language)
        # A schema may allow a list or a number: `text` has it. Clients drop a result that breaks the output schema.
        fields = value if isinstance(value, dict) else None
    notes = []
    if response["status"] == "incomplete":
        reason = (response.get("incomplete_details") or {}).get("reason") or "?"
        notes.append(texts.CUT.fill(reason=reason).of(language))
    conflicts = [_to_sentence(each, language) for each in hybrid.get("conflicts") or ()]
    degraded = [str(each) for each in hybrid.get("degraded") or ()]
    if conflicts:
        notes.append(texts.DIFFER.fill(conflicts="; ".join(conflicts)).of(language))
    notes += [texts.DEGRADED.fill(reason=each).of(language) for each in degraded]
    about = {"model": response.get("model"), "fields": fields, "agreement": hybrid.get("agreement")}
    return _result(
        exchange, [text, *notes], text, is_final=True, **about, conflicts=conflicts, degraded=degraded, eta_s=None
    )


def _to_draft(exchange: Exchange, language: Language) -> CallToolResult:
    hybrid = exchange.response.get("hybrid") or {}
    draft = hybrid.get("draft") or {}
    text, head = draft.get("text") or exchange.text_so_far("commentary"), texts.NOTHING_YET
    if text:
        head = texts.DRAFT.fill(model=draft.get("model") or "GLM")
    elif text := exchange.text_so_far("final_answer"):
        head = texts.SO_FAR
    eta_ms = (hybrid.get("queue") or {}).get("eta_ms")
    eta_s = None if eta_ms is None else round(eta_ms / 1000)
    more = texts.NO_ID
    if exchange.id:
        eta = Text.same("") if eta_s is None else texts.ETA.fill(seconds=eta_s)
        more = texts.MORE_LATER.fill(eta=eta, id=exchange.id)
    said = [f"{head.of(language)}\n{text}".rstrip(), more.of(language)]
    return _result(exchange, said, text, is_final=False, model=draft.get("model"), eta_s=eta_s)


def _result(exchange: Exchange, said: list[str], text: str, **about: Any) -> CallToolResult:
    found = {"text": text, "id": exchange.id or None, "status": exchange.response.get("status") or "queued", **about}
    return CallToolResult(content=[TextContent(type="text", text="\n\n".join(said))], structured_content=found)


def _to_sentence(conflict: Json, language: Language) -> str:
    what = conflict.get("path") or conflict.get("kind") or "?"
    return texts.CONFLICT.fill(what=what, first=conflict.get("first"), second=conflict.get("second")).of(language)
