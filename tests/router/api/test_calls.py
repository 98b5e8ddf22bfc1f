"""From requests to calls: the same question is the same call, whichever endpoint it came to."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from router.api import formats
from router.api.calls import to_call, to_older_call
from router.api.schemas import ChatRequest, InferenceRequest, ResponsesRequest, VisionRequest
from router.call import CacheUse, Call
from router.errors import BadRequestError
from router.settings import Settings

SCHEMA = {"type": "object", "properties": {"price": {"type": "number"}}}
URL = "https://example.com/a.png"


class Media:
    """Counts how often pictures are asked for."""

    def __init__(self) -> None:
        self.sources: list[Any] = []

    async def load_all(self, sources: list[Any]) -> tuple[Any, ...]:
        self.sources += sources
        return ()


class Authenticator:
    """Knows one owner who wants nothing kept for longer than an hour."""

    def retention_of(self, owner: str) -> int | None:
        return 3600 if owner == "ann" else None


class Monitor:
    """Knows of no engine's own names."""

    def name_of(self, _name: str) -> None:
        return None

    def info(self, _engine: str) -> None:
        return None


def parts() -> Any:
    settings = Settings(_env_file=None)
    capture = SimpleNamespace(is_on=lambda _caller: False)
    return SimpleNamespace(
        monitor=Monitor(), settings=settings, media=Media(), store=None, authenticator=Authenticator(), capture=capture
    )


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "glowl", "messages": [{"role": "user", "content": "hi"}], **fields}
    return ChatRequest.model_validate_json(json.dumps(body))


def responses(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate_json(json.dumps({"model": "glowl", "input": "hi", **fields}))


def bare(call: Call) -> Call:
    """Leave out what the endpoints may differ in: how long it took, and what only a response repeats."""
    return replace(call, fetch_ms=None, echo={})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "glm-4.6v-flash", "temperature": 0.7, "top_p": 0.9, "seed": 7},
        {"service_tier": "flex", "metadata": {"webhook_url": "https://example.com/hook", "a": "b"}},
        {"hybrid": {"route": "deep", "merge": "compose", "dial": 0.3, "deadline_ms": 9000, "draft": "events"}},
        {"hybrid": {"template": "receipt", "merge": "fields"}},
        {"reasoning_effort": "high", "stream": True},
    ],
    ids=["bare", "sampling", "metadata", "hybrid", "template", "thinking"],
)
async def test_both_endpoints_make_the_same_call_of_the_same_question(fields: dict[str, Any]) -> None:
    from_chat = await to_call(chat(**fields, store=True), "ann", parts())
    from_responses = await to_call(responses(**fields, store=True), "ann", parts())

    assert bare(from_chat) == bare(from_responses)
    assert (from_chat.owner, from_chat.retention_s) == ("ann", 3600)


async def test_the_endpoints_differ_in_what_is_stored_and_kept_if_nothing_is_said() -> None:
    from_chat = await to_call(chat(), "ann", parts())
    from_responses = await to_call(responses(), "ann", parts())

    assert (from_chat.is_stored, from_chat.cache) == (False, CacheUse(joins=True))
    assert (from_responses.is_stored, from_responses.cache) == (True, CacheUse(reads=True, writes=True, joins=True))


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"webhook_url": "ftp://example.com"}},
        {"model": "mplug-owl2", "reasoning_effort": "high"},
        {"model": "mplug-owl2", "hybrid": {"template": "receipt"}},
        {"hybrid": {"merge": "fields"}},
        {"metadata": {"a": 1}},
    ],
    ids=["webhook", "thinking", "format", "merge", "metadata"],
)
async def test_what_can_be_refused_at_once_is_refused_before_a_picture_is_fetched(fields: dict[str, Any]) -> None:
    chat_parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": URL}}]
    item_parts = [{"type": "input_text", "text": "?"}, {"type": "input_image", "image_url": URL}]
    for body in (
        chat(messages=[{"role": "user", "content": chat_parts}], **fields),
        responses(input=[{"role": "user", "content": item_parts}], **fields),
    ):
        services = parts()

        with pytest.raises(BadRequestError):
            await to_call(body, "ann", services)

        assert services.media.sources == []


async def test_a_json_schema_is_checked_once_per_request(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    check = formats.check_schema
    monkeypatch.setattr(formats, "check_schema", lambda schema: (checked.append(schema), check(schema))[1])
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}

    from_chat = await to_call(chat(response_format=wanted), "ann", parts())
    text = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
    from_responses = await to_call(responses(text=text), "ann", parts())

    assert checked == [SCHEMA, SCHEMA]
    assert from_chat.sampling.json_schema == from_responses.sampling.json_schema is not None


async def test_an_older_shape_names_its_model_or_leaves_it_to_the_policy() -> None:
    named = VisionRequest(prompt="hi", model="mplug-owl2")

    assert (await to_older_call(named, "ann", parts(), is_async=False)).hints.engine == "owl2"
    assert (await to_older_call(InferenceRequest(prompt="hi"), "ann", parts(), is_async=False)).hints.engine is None


async def test_an_older_shape_that_asks_for_a_job_is_stored_and_not_watched() -> None:
    call = await to_older_call(InferenceRequest(prompt="hi"), "ann", parts(), is_async=True)

    assert (call.is_background, call.is_stored, call.is_watched) == (True, True, False)
