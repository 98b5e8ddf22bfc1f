"""JSON by schema, through the unmodified openai client: at once, deep, streamed, by template, and when GLM is gone."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from engines.base import Delta, GenerationRequest
from tests.journeys.conftest import Stack
from tests.journeys.test_routes import ZH_PICTURE, hybrid

pytestmark = pytest.mark.e2e


class Line(BaseModel):
    name: str
    price: float


class Bill(BaseModel):
    lines: list[Line]
    total: int
    kind: Literal["shop", "bar"]


ECHOED = Bill(lines=[], total=0, kind="shop")


def test_chat_parse_gives_the_callers_own_model(stack: Stack) -> None:
    completion = stack.client.chat.completions.parse(
        model="glowl", messages=[{"role": "user", "content": ZH_PICTURE}], response_format=Bill
    )

    assert completion.choices[0].message.parsed == ECHOED
    assert hybrid(completion)["route"] == "fast"


def test_responses_parse_gives_it_too_and_the_object_shows_the_format(stack: Stack) -> None:
    response = stack.client.responses.parse(model="glowl", input="今天吃什么", text_format=Bill)

    assert response.output_parsed == ECHOED
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"
    assert response.text.format.name == "Bill"
    assert response.text.format.schema_["properties"].keys() == {"lines", "total", "kind"}


def test_on_the_deep_route_glm_writes_the_json_from_both_answers(stack: Stack) -> None:
    response = stack.client.responses.parse(model="glowl", input="How many owls are there?", text_format=Bill)

    assert response.output_parsed == ECHOED
    extra = hybrid(response)
    assert (extra["route"], extra["merge"], extra["engine"]) == ("deep", "compose", "glm")
    assert [branch["state"] for branch in extra["branches"]] == ["completed", "completed"]
    assert stack.engines["owl2"].last_request is not None
    assert stack.engines["owl2"].last_request.sampling.json_schema is None


@pytest.mark.parametrize("route", ["fast", "deep"])
def test_a_stream_of_json_joins_to_the_model(stack: Stack, route: str) -> None:
    with stack.client.chat.completions.stream(
        model="glowl",
        messages=[{"role": "user", "content": "你好"}],
        response_format=Bill,
        extra_body={"hybrid": {"route": route}},
    ) as stream:
        for _ in stream:
            pass
        completion = stream.get_final_completion()

    assert completion.choices[0].message.parsed == ECHOED


def test_a_template_is_listed_and_followed(stack: Stack) -> None:
    with stack.http as http:
        listed = http.get("/v1/templates", headers={"accept-language": "zh"}).json()
    names = [entry["id"] for entry in listed["data"]]
    assert (listed["object"], names) == ("list", ["receipt", "price_tag", "table"])
    assert listed["data"][0]["title"] == "小票"

    for name in names:
        completion = stack.client.chat.completions.create(
            model="glowl",
            messages=[{"role": "user", "content": ZH_PICTURE}],
            extra_body={"hybrid": {"template": name}},
        )
        assert hybrid(completion)["template"] == name
        required = next(entry["schema"]["required"] for entry in listed["data"] if entry["id"] == name)
        assert list(json.loads(completion.choices[0].message.content or "")) == required


def test_owl2_by_name_is_refused_and_so_is_its_last_word(stack: Stack) -> None:
    json_mode = {"type": "json_object"}
    with pytest.raises(openai.BadRequestError, match="mplug-owl2") as by_model:
        stack.client.responses.create(model="mplug-owl2", input="hi", text={"format": json_mode})
    with pytest.raises(openai.BadRequestError, match="mplug-owl2") as by_merge:
        stack.client.chat.completions.create(
            model="glowl",
            messages=[{"role": "user", "content": "hi"}],
            response_format=json_mode,
            extra_body={"hybrid": {"merge": "deep"}},
        )

    assert (by_model.value.param, by_merge.value.param) == ("text.format", "hybrid.merge")


@pytest.mark.parametrize("route", ["fast", "deep"])
def test_a_schema_that_only_the_engine_refuses_names_the_callers_field(stack: Stack, route: str) -> None:
    wanted = {"type": "json_schema", "name": "a", "schema": {"type": "string", "pattern": "^a"}}

    with pytest.raises(openai.BadRequestError, match="'pattern'") as refused:
        stack.client.responses.create(
            model="glowl", input="hi", text={"format": wanted}, extra_body={"hybrid": {"route": route}}
        )

    assert (refused.value.code, refused.value.param) == ("invalid_json_schema", "text.format")


def test_a_background_job_fails_once_with_the_engines_refusal_of_its_schema(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a schema that only the engine can refuse, in a job that was accepted already
    engine, asked = stack.engines["glm"], []

    def stream(request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        asked.append(request)
        return type(engine).stream(engine, request)

    monkeypatch.setattr(engine, "stream", stream)
    wanted = {"type": "json_schema", "name": "a", "schema": {"type": "string", "pattern": "^a"}}

    response = stack.client.responses.create(
        model="glowl",
        input="How many?",
        text={"format": wanted},
        background=True,
        extra_body={"hybrid": {"route": "deep"}},
    )
    failed = stack.wait_for(response.id, "failed", "completed", "incomplete")

    # Then it says which keyword it was, by the code a caller would have had at once, and was not tried again
    assert failed.status == "failed"
    assert failed.error.code == "invalid_json_schema"
    assert "'pattern'" in failed.error.message
    assert len(asked) == 1


def test_without_glm_json_is_refused_at_the_door_and_prose_is_not(stack: Stack) -> None:
    stack.stop_engine("glm")
    try:
        stack.wait_for_health(glm="down")
        with pytest.raises(openai.InternalServerError, match=r"Only GLM-4\.6V-Flash") as refused:
            stack.client.responses.parse(model="glowl", input="How many owls are there?", text_format=Bill)
        prose = stack.client.responses.create(model="glowl", input="How many owls are there?")
    finally:
        stack.start_engine("glm")
        stack.wait_for_health(glm="up")

    assert refused.value.status_code == 503
    assert prose.output_text.startswith("[echo owl2]")
