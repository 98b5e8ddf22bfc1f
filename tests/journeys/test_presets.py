"""The third arm: GLM thinking first, as the deep answer or beside Owl2."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from router.app import create_app
from router.settings import Settings
from tests.journeys.conftest import Stack
from tests.support.servers import AppServer

pytestmark = pytest.mark.e2e

# No engine or worker goes away here: a busy machine must not look like one that did.
LEASE_S = DRAFT_PATIENCE_S = 300.0

QUESTION = "What colour is the owl?"


@pytest.fixture
def ask(stack: Stack, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """A client of a second api, with another preset, in front of the same redis, worker and engines."""
    settings = Settings(
        REDIS_URL=stack.redis.url,
        glm_url=stack.servers["glm"].url,
        owl2_url=stack.servers["owl2"].url,
        preset=request.param,
    )
    server = AppServer(create_app(settings))
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client
    server.stop()


@pytest.mark.parametrize("ask", ["glm-thinking"], indirect=True)
def test_glm_that_thought_first_gives_the_deep_answer(stack: Stack, ask: openai.OpenAI) -> None:
    response = ask.responses.create(model="glowl", input=QUESTION)

    hybrid = response.model_extra["hybrid"]
    assert response.output_text == f"[echo glm] no pictures, question: {QUESTION}"
    assert [branch["name"] for branch in hybrid["branches"]] == ["draft", "thinking"]
    assert stack.engines["glm"].last_request is not None
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0


@pytest.mark.parametrize("ask", ["panel"], indirect=True)
def test_a_panel_asks_all_three_and_owl2_has_the_last_word(stack: Stack, ask: openai.OpenAI) -> None:
    response = ask.responses.create(model="glowl", input=QUESTION)

    hybrid = response.model_extra["hybrid"]
    assert response.output_text == f"[echo owl2] no pictures, question: {QUESTION}"
    assert [(branch["name"], branch["state"]) for branch in hybrid["branches"]] == [
        ("draft", "completed"),
        ("thinking", "completed"),
        ("deep", "completed"),
    ]
    assert hybrid["agreement"] is not None
