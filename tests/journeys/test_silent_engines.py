"""GLM stops without a word: it takes what it is asked and never answers. Owl2's answers come as if nothing were."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from engines.http.app import create_app as create_engine_app
from tests.journeys.conftest import Stack
from tests.support.receiver import Receiver
from tests.support.servers import AppServer

pytestmark = pytest.mark.e2e

QUESTION = "What colour is the owl on the left?"
ANSWER = f"[echo owl2] no pictures, question: {QUESTION}"
# Far less than any of the times for which such answers were withheld: a guard against hanging, not a measure.
GUARD_S = 60.0


class Freezer:
    """A server that stops in front of its application, as a stopped process does; or for questions alone."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.is_frozen = False
        self.is_probed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_probe = scope["type"] == "http" and scope["method"] == "GET"
        while self.is_frozen and scope["type"] == "http" and not (is_probe and self.is_probed):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def freezer(stack: Stack) -> Freezer:
    """GLM's server, which can be stopped."""
    stack.stop_engine("glm")
    freezer = Freezer(create_engine_app(stack.engines["glm"]))
    stack.servers["glm"] = AppServer(freezer, uds=stack.servers["glm"].uds)
    stack.wait_for_health(glm="up", owl2="up")
    return freezer


@pytest.fixture(params=["stopped", "stuck"])
def frozen(request: pytest.FixtureRequest, stack: Stack, freezer: Freezer) -> Iterator[str]:
    """GLM answers nothing at all, or says that it is ready and answers no question."""
    freezer.is_frozen, freezer.is_probed = True, request.param == "stuck"
    yield request.param
    freezer.is_frozen = False
    stack.wait_for_health(glm="up", owl2="up")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def hybrid(answer: Any) -> dict[str, Any]:
    return dict(answer.model_extra["hybrid"])


def test_jobs_chats_streams_and_webhooks_have_owl2s_answer(stack: Stack, receiver: Receiver, frozen: str) -> None:
    ids = [
        stack.client.responses.create(
            model="glowl", input=QUESTION, background=True, metadata={"webhook_url": receiver.url}
        ).id
        for _ in range(3)
    ]
    client = stack.client.with_options(timeout=GUARD_S)
    messages: Any = [{"role": "user", "content": QUESTION}]

    chat = client.chat.completions.create(
        model="glowl", messages=messages, extra_body={"hybrid": {"route": "deep", "max_wait_s": GUARD_S}}
    )
    events = list(client.responses.create(model="glowl", input=QUESTION, stream=True))

    assert chat.choices[0].message.content == ANSWER
    assert (hybrid(chat)["stage"], hybrid(chat)["agreement"]) == ("final", None)
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == ANSWER
    for response_id in ids:
        done = stack.wait_for(response_id, "completed")
        assert done.output_text == ANSWER
        assert hybrid(done)["degraded"][0].startswith("glm gave no answer")
        # No address, no socket of the inside.
        assert not any(word in str(done) for word in ("unix:", ".sock", "127.0.0.1:8"))
    heard = {orjson.loads(receiver.next()[1])["data"]["id"] for _ in ids}
    assert heard == set(ids)


@pytest.mark.parametrize("frozen", ["stopped"], indirect=True)
def test_what_glm_was_to_write_is_owl2s_and_says_so(stack: Stack, frozen: str) -> None:
    question = "左边的猫头鹰是什么颜色？为什么？"
    response = stack.client.responses.create(
        model="glowl", input=question, background=True, extra_body={"hybrid": {"route": "deep", "merge": "compose"}}
    )

    done = stack.wait_for(response.id, "completed")

    assert done.output_text == f"[echo owl2] no pictures, question: {question}"
    assert "glm" in hybrid(done)["degraded"][0]


@pytest.mark.parametrize("frozen", ["stopped"], indirect=True)
def test_a_call_under_way_hears_that_glm_is_gone_and_goes_on_to_owl2(stack: Stack, frozen: str) -> None:
    client = stack.client.with_options(timeout=GUARD_S)

    chat = client.chat.completions.create(model="glowl", messages=[{"role": "user", "content": "你好"}])

    assert (chat.choices[0].message.content or "").startswith("[echo owl2]")
    assert hybrid(chat)["degraded"]
