"""An old queue sends the next question to the other engine, which the answer says, until the queue is short again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engines.base import EngineOverloadedError
from router.app import create_app
from router.settings import Settings
from tests.journeys.conftest import Stack
from tests.support.servers import AppServer, wait_until

pytestmark = pytest.mark.e2e

ENGLISH = "What colour is the owl?"


@pytest.fixture
def http(stack: Stack, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a second api before the same engines and worker, for which half a second is a long wait."""
    rules = yaml.safe_load((resources.files("policies") / "presets" / "seed.yaml").read_text(encoding="utf-8"))
    preset = tmp_path / "hasty.yaml"
    preset.write_text(yaml.safe_dump({**rules, "max_queue_age_s": {"owl2": 0.5}}), encoding="utf-8")
    settings = Settings(
        REDIS_URL=stack.redis.url,
        glm_url=stack.servers["glm"].url,
        owl2_url=stack.servers["owl2"].url,
        preset=str(preset),
    )
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as client:
        yield client
    server.stop()


def ask(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/responses", json={"model": "glowl", "input": ENGLISH, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("api", ["chat/completions", "responses"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_a_full_glm_refuses_owl2_answers_and_says_why(stack: Stack, api: str, is_stream: bool) -> None:
    question = {"messages": [{"role": "user", "content": "你好"}]} if api.startswith("chat") else {"input": "你好"}
    stack.engines["glm"].fail_with = EngineOverloadedError("full")
    try:
        with stack.http as http:
            said = http.post(f"/v1/{api}", json={"model": "glowl", "stream": is_stream, **question})
    finally:
        stack.engines["glm"].fail_with = None

    assert said.status_code == 200
    events = [json.loads(line[6:]) for line in said.text.splitlines() if line.startswith("data: {")]
    if api.startswith("chat"):
        last = events[-1] if is_stream else said.json()
        parts = [each["choices"][0]["delta"] for each in events if each["choices"]] if is_stream else []
        text = (
            "".join(part.get("content") or "" for part in parts)
            if is_stream
            else last["choices"][0]["message"]["content"]
        )
    else:
        last = events[-1]["response"] if is_stream else said.json()
        text = last["output"][-1]["content"][0]["text"]
    assert text.startswith("[echo owl2]")
    assert last["hybrid"]["degraded"][0].startswith("glm 已满负荷")


def test_work_for_an_overloaded_owl2_is_glms_until_the_queue_is_short_again(stack: Stack, http: httpx.Client) -> None:
    # Given more questions than the slow Owl2 has places for, the last of which wait: from now on the queue only ages
    stack.engines["owl2"].delta_delay_s = 1.0
    jobs = [ask(http, background=True)["id"] for _ in range(12)]
    wait_until(lambda: stack.engines["owl2"].num_running == 8, "its places to be taken")

    def queue() -> dict[str, Any]:
        found: dict[str, Any] = http.get("/readyz").json().get("queues", {}).get("owl2", {})
        return found

    wait_until(lambda: queue().get("overloaded"), "the queue to be old")
    assert queue()["num_waiting"] > 0

    # Then the next one that nobody pinned is GLM's, and says why
    answered = ask(http)
    hybrid = answered["hybrid"]
    assert (answered["status"], hybrid["route"], hybrid["engine"], hybrid["rule"]) == (
        "completed", "fast", "glm", "english"
    )  # fmt: skip
    assert answered["output"][-1]["content"][0]["text"].startswith("[echo glm]")
    assert hybrid["degraded"][0].startswith("owl2 has a queue ")
    assert hybrid["degraded"][0].endswith("s old (limit 0.5 s): answered by glm alone")
    assert hybrid["reasons"][-1]["feature"] == "queue_age_s"
    # and so does the decision alone, with the numbers
    decided = http.post("/v1/route", json={"model": "glowl", "messages": [{"role": "user", "content": ENGLISH}]}).json()
    assert (decided["engine"], decided["overloaded"]) == ("glm", "owl2")
    assert decided["health"]["engines"]["owl2"]["queue_age_s"] > 0.5
    assert "owl2 up, queue " in decided["explanation"]
    # and one that a caller pinned waits its turn
    pinned = ask(http, background=True, hybrid={"route": "deep"})
    assert (pinned["hybrid"]["engine"], pinned["hybrid"]["degraded"]) == ("owl2", [])

    # When the queue is short again
    stack.engines["owl2"].delta_delay_s = 0.0
    for job in [*jobs, pinned["id"]]:
        stack.wait_for(job, "completed")
    wait_until(lambda: queue().get("overloaded") is False, "the queue to be short")

    # Then so are English questions Owl2's, as before
    again = ask(http)
    assert (again["hybrid"]["engine"], again["hybrid"]["degraded"]) == ("owl2", [])
    assert again["output"][-1]["content"][0]["text"].startswith("[echo owl2]")
