"""What a call returns: final answers, drafts, notes and errors, and never nothing."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import validate
from mcp_types import CallToolResult, TextContent

from router.mcp.exchange import Exchange
from router.mcp.results import OUTPUT_SCHEMA, to_result


def final(said: str, **about: Any) -> Exchange:
    content = [{"type": "output_text", "text": said}]
    message = {"type": "message", "phase": "final_answer", "content": content}
    draft = {"type": "message", "phase": "commentary", "content": [{"type": "output_text", "text": "draft"}]}
    response = {"id": "resp_1", "status": "completed", "model": "owl2", "output": [draft, message], **about}
    return Exchange({"text": {"format": {"type": "text"}}, "hybrid": {}, **response})


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def found(exchange: Exchange, language: Any = "en") -> tuple[str, Any]:
    result = to_result(exchange, language)
    assert not result.is_error
    validate(result.structured_content, OUTPUT_SCHEMA)
    return text_of(result), result.structured_content


def test_a_final_answer_is_the_answer_alone() -> None:
    text, value = found(final("The left one."))
    assert text == "The left one."
    assert value["is_final"]
    assert value["text"] == "The left one."
    assert value["id"] == "resp_1"


def test_a_long_answer_is_whole() -> None:
    text, value = found(final("x" * 300_000))
    assert len(text) == len(value["text"]) == 300_000


def test_json_is_an_object_too() -> None:
    _, value = found(final('{"total": 7}', text={"format": {"type": "json_schema"}}))
    assert value["fields"] == {"total": 7}


@pytest.mark.parametrize("said", ["[3, 0]", "5", "true", "null"])
def test_json_that_is_no_object_is_text_alone(said: str) -> None:
    text, value = found(final(said, text={"format": {"type": "json_schema"}}))
    assert text == value["text"] == said
    assert value["fields"] is None


def test_json_that_is_cut_is_no_object_and_says_so() -> None:
    cut = {"text": {"format": {"type": "json_schema"}}, "status": "incomplete"}
    text, value = found(final('{"total": ', **cut, incomplete_details={"reason": "max_output_tokens"}))
    assert value["fields"] is None
    assert "cut short: max_output_tokens" in text


def test_doubts_are_said_after_the_answer() -> None:
    conflict = {"kind": "number", "path": "", "first": "3", "second": "5"}
    text, value = found(final("Three.", hybrid={"conflicts": [conflict], "degraded": ["no draft"], "agreement": 0.2}))
    assert text.startswith("Three.")
    assert "number (GLM: 3, Owl2: 5)" in text
    assert "no draft" in text
    assert value["agreement"] == 0.2


def test_a_draft_comes_with_the_way_to_the_answer() -> None:
    hybrid = {"draft": {"text": "purple", "model": "glm"}, "queue": {"eta_ms": 41_000}}
    text, value = found(Exchange({"id": "resp_1", "status": "in_progress", "hybrid": hybrid}))
    assert text.startswith("Draft by glm, not final:\npurple")
    assert "about 41 s" in text
    assert "`refined`, id resp_1" in text
    assert value == {
        **{"is_final": False, "text": "purple", "id": "resp_1", "status": "in_progress", "model": "glm", "eta_s": 41}
    }


def test_an_unfinished_draft_is_not_said_to_be_of_the_full_model() -> None:
    exchange = Exchange({"id": "resp_1", "status": "in_progress"})
    exchange.take({"type": "response.output_item.added", "item": {"id": "msg_1", "phase": "commentary"}})
    exchange.take({"type": "response.output_text.delta", "item_id": "msg_1", "delta": "pur"})

    assert found(exchange)[0].startswith("Draft by GLM, not final:\npur")


def test_before_the_first_word_it_says_so_in_either_language() -> None:
    exchange = Exchange({"id": "resp_1", "status": "queued"})
    assert found(exchange)[0].startswith("There is no answer yet.")
    assert found(exchange, "zh")[0].startswith("尚无回答。")


def test_an_answer_that_cannot_be_kept_promises_no_id() -> None:
    exchange = Exchange({"id": "resp_1", "status": "in_progress"}, is_kept=False)
    text, value = found(exchange)
    assert value["id"] is None
    assert "resp_1" not in text


@pytest.mark.parametrize(
    ("exchange", "said"),
    [
        (Exchange({"status": "failed", "error": {"message": "no engine"}}), "no engine"),
        (Exchange({"status": "cancelled"}), "cancelled"),
        (Exchange({"status": "in_progress"}, error={"message": "it broke"}), "it broke"),
        (final("not JSON", text={"format": {"type": "json_object"}}), "no JSON object"),
    ],
)
def test_a_failure_is_an_error_that_says_why(exchange: Exchange, said: str) -> None:
    result = to_result(exchange, "en")
    assert result.is_error
    assert said in text_of(result)
