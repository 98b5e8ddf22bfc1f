"""A draft that the api begins itself, for a caller who waits for the first word. No worker runs here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from engines.base import EngineOverloadedError
from engines.echo import EchoEngine
from router import dispatch
from router.api import telling, waiting
from router.app import create_app
from router.errors import QueueUnavailableError
from router.jobs.job import Event
from router.settings import Settings
from tests.router.api.test_unstored import finish
from tests.support.raw import send
from tests.support.servers import AppServer, RedisProcess, wait_until

Json = dict[str, Any]
DEEP: Json = {"hybrid": {"route": "deep"}}
CHAT: Json = {"model": "glowl", "messages": [{"role": "user", "content": "Why?"}]}
RESPONSE: Json = {"model": "glowl", "input": "Why?", **DEEP}
SAID = "[echo glm] no pictures, question: Why?"


@pytest.fixture(autouse=True)
def _empty(redis_process: RedisProcess) -> None:
    redis_process.flush()


def units_of(http: httpx.Client, job_id: str) -> dict[str, Json]:
    return {unit["name"]: unit for unit in http.get(f"/v1/jobs/{job_id}").json()["units"]}


def read_until(http: httpx.Client, body: Json, kind: str) -> list[Json]:
    """Read a stream of a job that nobody will end, up to an event."""
    events: list[Json] = []
    with http.stream("POST", "/v1/responses", json={**body, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if events[-1]["type"] == kind:
                    break
    return events


@pytest.mark.parametrize("fields", [{}, {"background": True}])
def test_a_deep_stream_shows_the_draft_before_any_worker_has_moved(
    http: httpx.Client, redis_client: redis.Redis, fields: Json
) -> None:
    events = read_until(http, {**RESPONSE, **fields}, "response.output_item.done")

    item = events[-1]["item"]
    title, _, text = item["summary"][0]["text"].partition("\n\n")
    assert (item["type"], item["status"], text) == ("reasoning", "completed", SAID)
    assert title == "**Draft by glm-4.6v-flash-echo**"
    job_id = events[0]["response"]["id"]
    units = units_of(http, job_id)
    assert {name: (unit["status"], unit["runs"]) for name, unit in units.items()} == {
        "draft": ("completed", 1),
        "deep": ("queued", 0),
    }
    # And the only ticket is for the other branch
    wait_until(lambda: redis_client.llen("glowl:celery:glowl.owl2") == 1, "the ticket")
    assert redis_client.llen("glowl:celery:glowl.glm") == 0
    # And a poll shows the same
    polled = http.get(f"/v1/responses/{job_id}").json()
    (shown,) = polled["output"]
    assert (polled["status"], shown["phase"], shown["content"][0]["text"]) == ("in_progress", "commentary", SAID)
    assert {"queue", "prefill", "decode"} <= set(polled["hybrid"]["timings"])


@pytest.mark.parametrize("fields", [{"background": True}, {"hybrid": {"route": "deep", "async": "auto"}}])
def test_who_does_not_wait_stands_in_line(http: httpx.Client, redis_client: redis.Redis, fields: Json) -> None:
    job_id = http.post("/v1/responses", json={**RESPONSE, **fields}).json()["id"]

    assert units_of(http, job_id)["draft"]["status"] == "queued"
    # At least one: an api of other tests may find it first where no worker is, and send it once more.
    assert redis_client.llen("glowl:celery:glowl.glm") >= 1


def test_beyond_so_many_drafts_in_this_process_the_others_stand_in_line(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_MAX_LOCAL_DRAFTS", 0)

    job_id = read_until(http, RESPONSE, "response.created")[0]["response"]["id"]

    assert units_of(http, job_id)["draft"]["status"] == "queued"


def test_the_draft_goes_on_when_its_caller_hangs_up(
    api: AppServer, http: httpx.Client, echoes: dict[str, EchoEngine]
) -> None:
    echoes["glm"].delta_delay_s = 0.03
    connection = send(api, "/v1/responses", {**RESPONSE, "stream": True})
    received = b""
    while b"summary_text.delta" not in received:
        received += connection.recv(65536)
    connection.close()
    job_id = "resp_" + received.partition(b'"resp_')[2][:32].decode()

    draft = wait_until(lambda: (found := units_of(http, job_id)["draft"])["status"] == "completed" and found, "a draft")

    assert draft["result"]["text"] == SAID


def test_cancelling_frees_the_engine(http: httpx.Client, echoes: dict[str, EchoEngine]) -> None:
    # Given a draft that says nothing for long
    echoes["glm"].delta_delay_s = 3600.0
    job_id = read_until(http, {**RESPONSE, "background": True}, "response.in_progress")[0]["response"]["id"]
    wait_until(lambda: echoes["glm"].num_running == 1, "the draft to begin")

    http.post(f"/v1/responses/{job_id}/cancel")

    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")
    assert units_of(http, job_id)["draft"]["status"] == "cancelled"


def test_a_job_that_cannot_be_recorded_frees_the_engine(
    api: AppServer, http: httpx.Client, echoes: dict[str, EchoEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes["glm"].delta_delay_s = 3600.0

    async def create(*_: Any, **__: Any) -> Any:
        await echoes["glm"].info()
        raise QueueUnavailableError("redis is away", code="queue_unavailable")

    monkeypatch.setattr(api._app.state.services.store, "create", create)

    refused = http.post("/v1/chat/completions", json={**CHAT, **DEEP})

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_unavailable")
    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")


def test_a_draft_that_a_worker_has_taken_is_left_to_it(
    api: AppServer, http: httpx.Client, echoes: dict[str, EchoEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = api._app.state.services.store
    real = store.claim

    async def claim(job_id: str, unit: str) -> int | None:
        assert await real(job_id, unit) == 1
        return None

    monkeypatch.setattr(store, "claim", claim)

    job_id = read_until(http, RESPONSE, "response.in_progress")[0]["response"]["id"]

    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")
    found = units_of(http, job_id)["draft"]
    assert (found["status"], found["runs"], found["result"]) == ("in_progress", 1, None)


def test_a_full_engine_puts_the_draft_in_line_for_a_worker(http: httpx.Client, echoes: dict[str, EchoEngine]) -> None:
    echoes["glm"].fail_with = EngineOverloadedError("full")

    job_id = read_until(http, RESPONSE, "response.in_progress")[0]["response"]["id"]

    found = wait_until(lambda: (it := units_of(http, job_id)["draft"])["status"] == "queued" and it, "the line")
    assert (found["runs"], found["failures"]) == (1, 0)


@pytest.fixture
def leaving(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[AppServer]:
    settings = Settings(REDIS_URL=redis_process.url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"])
    server = AppServer(create_app(settings))
    yield server
    if server._thread.is_alive():
        server.stop()


def test_an_api_that_ends_hands_its_drafts_to_the_workers(
    leaving: AppServer, http: httpx.Client, echoes: dict[str, EchoEngine], redis_client: redis.Redis
) -> None:
    echoes["glm"].delta_delay_s = 3600.0
    with httpx.Client(base_url=leaving.url, timeout=300, trust_env=False) as client:
        wait_until(lambda: client.get("/readyz").json()["engines"]["glm"] == "up", "the engine")
        job_id = read_until(client, RESPONSE, "response.in_progress")[0]["response"]["id"]
    assert units_of(http, job_id)["draft"]["status"] == "in_progress"

    leaving.stop()

    found = units_of(http, job_id)["draft"]
    assert (found["status"], found["failures"]) == ("queued", 0)
    # At least one: an api of other tests may find it first where no worker is, and send it once more.
    assert redis_client.llen("glowl:celery:glowl.glm") >= 1
    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")


def test_a_draft_whose_api_was_killed_is_run_again_by_a_worker(
    api: AppServer, http: httpx.Client, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an api that claims the draft and is never heard of again
    runner = api._app.state.services.dispatcher._runner
    lost = threading.Event()

    def run(_job: Any, _unit: str, _epoch: int, _stream: Any) -> None:
        lost.set()

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(api._app.state.services.store, "lease_s", 0.2)
    num_before = redis_client.llen("glowl:celery:glowl.glm")
    job_id = read_until(http, RESPONSE, "response.in_progress")[0]["response"]["id"]
    assert lost.is_set()

    found = wait_until(lambda: (it := units_of(http, job_id)["draft"])["status"] == "queued" and it, "the reaper")

    assert (found["runs"], found["failures"]) == (1, 1)
    wait_until(lambda: redis_client.llen("glowl:celery:glowl.glm") > num_before, "the ticket")


# A chat on the deep route: nobody will write the final answer here.


class OverInMidDraft(waiting.Wait):
    """A wait that ends with the draft's first word."""

    def wants_look(self, event: Event | None) -> bool:
        if event is not None and event.kind == "delta" and not self.is_over:
            self.until = time.monotonic()
        return super().wants_look(event)


@pytest.fixture(params=[0, 3600], ids=["no wait", "over in mid-draft"])
def wait_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    for module in (telling, waiting):
        monkeypatch.setattr(module, "Wait", OverInMidDraft)
    return float(request.param)


def test_a_chat_past_its_wait_is_the_draft_and_says_where_the_rest_will_be(
    http: httpx.Client, echoes: dict[str, EchoEngine], wait_s: float
) -> None:
    # Given a draft that is there after some time, later than the wait
    echoes["glm"].delta_delay_s = 0.01

    answer = http.post("/v1/chat/completions", json={**CHAT, "hybrid": {"route": "deep", "max_wait_s": wait_s}})

    assert answer.status_code == 200
    completion = answer.json()
    assert completion["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": SAID, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    hybrid = completion["hybrid"]
    assert (hybrid["stage"], hybrid["queue"]["position"]) == ("draft", 1)
    assert http.get(f"/v1/responses/{hybrid['response_id']}").json()["status"] == "in_progress"


def test_a_streamed_chat_past_its_wait_ends_with_the_draft(
    http: httpx.Client, echoes: dict[str, EchoEngine], wait_s: float
) -> None:
    # Given a draft with pauses in which a wait of nothing once made twenty pings a second
    echoes["glm"].delta_delay_s = 0.15
    body = {**CHAT, "stream": True, "hybrid": {"route": "deep", "max_wait_s": wait_s}}

    answer = http.post("/v1/chat/completions", json=body)

    assert answer.text.count(": ping") <= 1
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == SAID
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["hybrid"]["stage"] == "draft"
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("max_wait_s", [0, 0.2])
@pytest.mark.parametrize("is_full", [False, True], ids=["silent", "full"])
def test_a_chat_past_its_wait_without_a_draft_is_told_where_the_answer_will_be(
    http: httpx.Client,
    echoes: dict[str, EchoEngine],
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    is_full: bool,
    max_wait_s: float,
    is_streamed: bool,
) -> None:
    # Given a GLM that takes the question and says nothing, or is full, and an Owl2 that is not there
    echoes["glm"].delta_delay_s = 3600
    if is_full:
        echoes["glm"].delta_delay_s = 0.0
        echoes["glm"].fail_with = EngineOverloadedError("full")
    if max_wait_s == 0:
        monkeypatch.setattr(telling, "PING_S", 0.05)
        for name, seconds in (("PING_S", 0.05), ("_DRAFT_S", 0.2), ("_BEGIN_S", 0.2)):
            monkeypatch.setattr(waiting, name, seconds)
    body = {**CHAT, "stream": is_streamed, "hybrid": {"route": "deep", "max_wait_s": max_wait_s}}

    answer = http.post("/v1/chat/completions", json=body, timeout=300)

    if is_streamed:
        lines = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        error = next(line["error"] for line in lines if "error" in line)
    else:
        assert answer.status_code == 504
        # The client's own retry would only make more work of it.
        assert answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("answer_timeout", "hybrid.max_wait_s")
    job_id = error["message"].rpartition("/")[2].rstrip(".")
    assert http.get(f"/v1/responses/{job_id}").json()["status"] in ("queued", "in_progress")

    # And it is kept for whom it was told, though nothing else of this chat is stored
    finish(redis_client, job_id)
    assert http.get(f"/v1/responses/{job_id}").json()["status"] == "completed"
