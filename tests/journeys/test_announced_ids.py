"""An id that a stream announced leads to the whole answer, also after kill -9 of the api that wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

pytestmark = pytest.mark.e2e


@pytest.fixture
def processes() -> Iterator[ProcessStack]:
    stack = ProcessStack(num_apis=2, delay_s=0.2, env={"GLOWL_LEASE_S": "1"})
    try:
        stack.start()
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(autouse=True)
def _fast_engines() -> None:
    """Keep the stack of the other journeys from being started: here processes are killed."""


def ended(http: httpx.Client, response_id: str) -> Any:
    """Return a response that has ended; None while it has not."""
    found = http.get(f"/v1/responses/{response_id}").json()
    return None if found.get("status") in ("queued", "in_progress") else found


def test_direct_answers_outlive_the_api_that_streamed_them(processes: ProcessStack) -> None:
    # Given three streams of direct answers, each at its first words
    question = "图里有什么？请说说看。"
    chat = {"messages": [{"role": "user", "content": question}], "store": True}
    bodies = [
        ("/v1/responses", {"model": "glowl", "input": question}),
        ("/v1/responses", {"model": "glowl", "input": question, "background": False, "hybrid": {"route": "fast"}}),
        (
            "/v1/chat/completions",
            {"model": "glowl", **chat},
        ),
    ]
    ids = []
    with httpx.Client(base_url=processes.urls[0], timeout=300, trust_env=False) as http:
        streams = []
        for path, body in bodies:
            answer = http.send(http.build_request("POST", path, json={**body, "stream": True}), stream=True)
            lines = answer.iter_lines()
            ids.append(answer.headers["x-glowl-response-id"])
            assert answer.headers["x-glowl-route"] == "fast"
            while "[echo" not in next(lines):
                pass
            streams.append((answer, lines))  # kept: a connection ends with what reads it

        # When their api is killed
        processes.kill("api0")

    # Then another one shows them, and they come to their end
    with httpx.Client(base_url=processes.urls[1], timeout=300, trust_env=False) as http:
        for response_id in ids:
            done = wait_until(lambda response_id=response_id: ended(http, response_id), response_id)  # type: ignore[misc]
            assert (done.get("status"), len(done["output"])) == ("completed", 1)
            assert question in done["output"][-1]["content"][0]["text"]
            # And who had read a part is told that it cannot be read on
            rest = http.get(f"/v1/responses/{response_id}", params={"stream": True, "starting_after": 4})
            last = json.loads(rest.text.strip().splitlines()[-1].removeprefix("data: "))
            assert (last["type"], last["code"]) == ("error", "answer_restarted")
