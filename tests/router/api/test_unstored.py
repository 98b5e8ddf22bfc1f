"""Jobs that were not to be stored: who may read them, and what becomes of them when their caller hangs up."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest
import redis
from redis.asyncio import Redis

from engines.echo import EchoEngine
from router.api.routes import responses
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.support.raw import send
from tests.support.servers import AppServer, RedisProcess, wait_until

Json = dict[str, Any]
DEEP: Json = {"hybrid": {"route": "deep"}}
CHAT: Json = {"model": "glowl", "messages": [{"role": "user", "content": "Why?"}], **DEEP}
RESPONSE: Json = {"model": "glowl", "input": "Why?", "store": False, **DEEP}
HOOK: Json = {"metadata": {"webhook_url": "http://example.com/hook"}}


def jobs_of(client: redis.Redis) -> dict[str, str]:
    """The state of every job there is, listed or not."""
    found = {}
    for key in client.scan_iter(f"{PREFIX}job:*"):
        found[key.decode().removeprefix(f"{PREFIX}job:")] = (client.hget(key, "state") or b"").decode()  # type: ignore[union-attr]
    return found


@pytest.fixture(autouse=True)
def _no_jobs(redis_client: redis.Redis) -> None:
    for key in redis_client.scan_iter(f"{PREFIX}job:*"):
        redis_client.delete(key)


def begin(api: AppServer, client: redis.Redis, path: str, body: Json, **headers: str) -> tuple[socket.socket, str]:
    """Ask, and wait for the one job that this makes."""
    connection = send(api, path, body, headers)
    return connection, next(iter(wait_until(lambda: jobs_of(client), "a job")))


def state_of(client: redis.Redis, job_id: str) -> str:
    return jobs_of(client)[job_id]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/responses", RESPONSE),
    ],
)
def test_a_held_job_that_nobody_else_would_miss_ends_with_its_connection(
    api: AppServer, redis_client: redis.Redis, echoes: dict[str, EchoEngine], path: str, body: Json
) -> None:
    echoes["glm"].delta_delay_s = 3600.0
    connection, job_id = begin(api, redis_client, path, body)
    assert state_of(redis_client, job_id) in ("queued", "in_progress")

    connection.close()

    wait_until(lambda: state_of(redis_client, job_id) == "cancelled", "the end of the job")
    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/chat/completions", {**CHAT, "store": True}, {}),
        ("/v1/chat/completions", {**CHAT, **HOOK}, {}),
        ("/v1/chat/completions", CHAT, {"Idempotency-Key": "left"}),
        ("/v1/responses", {**RESPONSE, "store": True}, {}),
        ("/v1/responses", {**RESPONSE, "store": True, "stream": True, "background": True}, {}),
    ],
)
def test_a_job_that_somebody_may_still_ask_for_goes_on(
    api: AppServer,
    http: httpx.Client,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: Json,
    headers: dict[str, str],
) -> None:
    monkeypatch.setattr(responses, "RESUME_GRACE_S", 0.05)
    ended: list[str] = []

    async def cancel(job_id: str, **_: Any) -> None:
        ended.append(job_id)

    monkeypatch.setattr(api._app.state.services.store, "cancel", cancel)
    connection, job_id = begin(api, redis_client, path, body, **headers)

    connection.close()

    share = api._app.state.services.dispatcher._leftovers
    wait_until(lambda: len(share) == 0, "whatever is left to do")
    assert ended == []
    assert state_of(redis_client, job_id) in ("queued", "in_progress")


def read_some(connection: socket.socket) -> str:
    received = b""
    while b"response.in_progress" not in received:
        received += connection.recv(65536)
    return "resp_" + received.partition(b'"resp_')[2][:32].decode()


def test_a_stream_may_be_resumed_for_a_while_and_then_its_job_ends(
    api: AppServer, http: httpx.Client, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a stream that nobody stores, whose connection breaks, and which is read on in time
    monkeypatch.setattr(responses, "RESUME_GRACE_S", 1.0)
    connection = send(api, "/v1/responses", {**RESPONSE, "stream": True})
    job_id = read_some(connection)
    connection.close()
    wait_until(lambda: redis_client.hget(f"{PREFIX}job:{job_id}", "left"), "the note that it was left")

    with http.stream("GET", f"/v1/responses/{job_id}", params={"stream": True, "starting_after": 1}) as again:
        lines = again.iter_lines()  # kept: the connection ends with it
        next(lines)
        share = api._app.state.services.dispatcher._leftovers
        wait_until(lambda: len(share) == 0, "the end of the grace")
        # Then it goes on
        assert state_of(redis_client, job_id) in ("queued", "in_progress")

    # When that connection breaks too, and nobody comes
    wait_until(lambda: state_of(redis_client, job_id) == "cancelled", "the end of the job")
    # Then whoever comes later is told how it ended
    assert http.get(f"/v1/responses/{job_id}").json()["status"] == "cancelled"


def finish(client: redis.Redis, job_id: str) -> None:
    """End a job as if its workers had."""
    client.hset(f"{PREFIX}job:{job_id}", mapping={"state": "completed", "completed_at": "1"})


def test_an_unstored_answer_is_readable_only_by_who_got_only_the_draft(
    http: httpx.Client, redis_client: redis.Redis
) -> None:
    # Given two chats that got the draft, one of them streamed
    whole = http.post("/v1/chat/completions", json={**CHAT, "hybrid": {"route": "deep", "max_wait_s": 0}})
    [told] = jobs_of(redis_client)
    streamed = http.post(
        "/v1/chat/completions", json={**CHAT, "stream": True, "hybrid": {"route": "deep", "max_wait_s": 0}}
    )
    [also_told] = set(jobs_of(redis_client)) - {told}
    assert whole.json()["hybrid"]["response_id"] == whole.headers["x-glowl-response-id"] == told
    assert f'"response_id":"{also_told}"' in streamed.text.splitlines()[-4]
    assert "resp_" not in streamed.text.splitlines()[0]
    assert "x-glowl-response-id" not in streamed.headers
    # And one whose record somebody knows the id of without having been told
    redis_client.copy(f"{PREFIX}job:{told}", f"{PREFIX}job:resp_untold")
    redis_client.hdel(f"{PREFIX}job:resp_untold", "told")

    for job_id in (told, also_told, "resp_untold"):
        finish(redis_client, job_id)

    statuses = [http.get(f"/v1/responses/{job_id}").status_code for job_id in (told, also_told, "resp_untold")]
    assert statuses == [200, 200, 404]
    assert http.get("/v1/jobs/resp_untold").status_code == 404
    # And none is in a list
    listed = {job["id"] for job in http.get("/v1/jobs", params={"limit": 100}).json()["data"]}
    assert not listed & {told, also_told}
    assert not [key for key in redis_client.scan_iter(f"{PREFIX}jobs:") if redis_client.zcard(key)]


async def answer_in_other_words(redis_url: str, job_id: str) -> None:
    """Do as workers of which one dies in mid-answer, and the next one says something else."""
    redis = Redis.from_url(redis_url)
    store = JobStore(redis)
    epoch = await store.claim(job_id, "deep") or 0
    await store.append(job_id, "deep", epoch, "one ", piece=1)
    await store.release(job_id, "deep", epoch, "failure")
    epoch = await store.claim(job_id, "deep") or 0
    await store.append(job_id, "deep", epoch, "two ", piece=1)
    await store.finish(job_id, "deep", epoch, UnitResult(text="two ", model="m"))
    merge = None
    while merge is None:  # the api writes the draft
        merge = await store.claim(job_id, "merge")
        await asyncio.sleep(0.01)
    await store.complete(job_id, merge, final=FinalAnswer("two ", "m", "owl2", "deep"))
    await redis.aclose()


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSE)])
def test_an_answer_begun_again_in_other_words_can_be_read_whole_by_its_reader(
    http: httpx.Client, redis_process: RedisProcess, redis_client: redis.Redis, path: str, body: Json
) -> None:
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        job_id = next(iter(wait_until(lambda: jobs_of(redis_client), "a job")))
        asyncio.run(answer_in_other_words(redis_process.url, job_id))
        said = answer.read().decode()

    assert "answer_restarted" in said
    assert f"/v1/responses/{job_id}" in said
    assert http.get(f"/v1/responses/{job_id}").json()["output"][-1]["content"][0]["text"] == "two "


def test_a_fast_answer_that_is_not_stored_announces_no_id(http: httpx.Client) -> None:
    fast = {"model": "glowl", "hybrid": {"route": "fast"}}
    chat = http.post("/v1/chat/completions", json={**CHAT, **fast})
    response = http.post("/v1/responses", json={**RESPONSE, **fast})

    for answer in (chat, response):
        assert answer.json()["hybrid"]["response_id"] is None
        assert "x-glowl-response-id" not in answer.headers
    stored = http.post("/v1/chat/completions", json={**CHAT, **fast, "store": True})
    assert http.get(f"/v1/responses/{stored.headers['x-glowl-response-id']}").status_code == 200


def test_an_unstored_job_in_the_queue_can_be_cancelled_by_its_id(
    api: AppServer, http: httpx.Client, redis_client: redis.Redis
) -> None:
    connection = send(api, "/v1/responses", {**RESPONSE, "stream": True})
    job_id = read_some(connection)

    assert http.post(f"/v1/responses/{job_id}/cancel").json()["status"] == "cancelled"
    while connection.recv(65536):
        pass  # to its end
    connection.close()


def test_a_caller_who_leaves_while_the_job_is_recorded_leaves_no_job(
    api: AppServer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a record that is written and whose writer has not heard of it yet
    store = api._app.state.services.store
    create = store.create

    async def create_slowly(*args: Any, **named: Any) -> Any:
        await create(*args, **named)
        await asyncio.sleep(3600)

    monkeypatch.setattr(store, "create", create_slowly)
    connection, job_id = begin(api, redis_client, "/v1/chat/completions", CHAT)

    connection.close()

    wait_until(lambda: state_of(redis_client, job_id) == "cancelled", "the end of the job")
