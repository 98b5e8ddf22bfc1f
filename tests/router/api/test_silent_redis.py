"""While redis hangs, what needs it is refused soon, and what was refused is not done later."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from router.api import waiting
from router.batches.records import BatchSpec
from router.jobs.job import Job, JobSpec
from router.redis import may_be_done, queue_unavailable, storage_full
from router.redis_watch import RedisSilentError
from tests.support.servers import AppServer, RedisProcess, paused, wait_until

GUARD_S = 8.0  # less than a write waits for redis
DEEP = {"model": "glowl", "input": "Compare the causes of both wars step by step.", "hybrid": {"route": "deep"}}


@pytest.fixture
def hanging(api: AppServer, redis_process: RedisProcess) -> Iterator[None]:
    """A redis that the api knows to be silent."""
    watch = api._app.state.services.redis_watch
    with paused(redis_process.child.pid):
        wait_until(lambda: watch.is_silent, "the api to notice")
        yield
    wait_until(lambda: not watch.is_silent, "the api to notice")


CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "poll": ("GET", "/v1/responses/resp_0", {}),
    "job": ("GET", "/v1/jobs/resp_0", {}),
    "jobs": ("GET", "/v1/jobs", {}),
    "cancel": ("POST", "/v1/responses/resp_0/cancel", {}),
    "batch": ("GET", "/v1/batches/batch_0", {}),
    "batches": ("GET", "/v1/batches", {}),
    "file": ("GET", "/v1/files/file-0", {}),
    "files": ("GET", "/v1/files", {}),
    "endpoints": ("GET", "/v1/webhook_endpoints", {}),
    "background": ("POST", "/v1/responses", {"json": {**DEEP, "background": True}}),
    "keyed": ("POST", "/v1/responses", {"json": DEEP, "headers": {"Idempotency-Key": "silent-1"}}),
    "earlier": (
        "POST",
        "/v1/responses",
        {"json": {"model": "glowl", "input": "你好", "previous_response_id": "resp_0"}},
    ),
    "upload": ("POST", "/v1/files", {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}\n")}}),
}


@pytest.mark.usefixtures("hanging")
async def test_whatever_needs_redis_is_refused_at_once_while_it_hangs(api: AppServer) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=GUARD_S, trust_env=False) as http:
        answers = await asyncio.gather(*(http.request(how, path, **more) for how, path, more in CALLS.values()))

    told = {name: (each.status_code, each.json()["error"]["code"]) for name, each in zip(CALLS, answers, strict=True)}
    assert told == dict.fromkeys(CALLS, (503, "queue_unavailable"))
    assert all(each.headers["retry-after"] for each in answers)


def test_a_poll_is_refused_soon_though_nobody_has_noticed_yet(
    http: httpx.Client, redis_process: RedisProcess, api: AppServer
) -> None:
    http.get("/v1/responses/resp_0")  # a connection that works
    with paused(redis_process.child.pid):
        answer = http.get("/v1/responses/resp_0", timeout=GUARD_S)

    assert answer.status_code == 503
    wait_until(lambda: http.get("/v1/responses/resp_0").status_code == 404, "redis to answer again")


@pytest.fixture
def late(api: AppServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Redis does what it is asked, and its answer comes too late: the ids of jobs accepted so."""
    store, ids = api._app.state.services.store, []
    create = store.create

    async def create_late(spec: JobSpec, *more: Any, **named: Any) -> Job:
        await create(spec, *more, **named)
        ids.append(spec.id)
        raise queue_unavailable() from redis.TimeoutError("Timeout reading from socket")

    monkeypatch.setattr(store, "create", create_late)
    return ids


def test_a_job_that_was_refused_is_not_done_all_the_same(http: httpx.Client, late: list[str]) -> None:
    refused = http.post("/v1/responses", json={**DEEP, "background": True})

    assert refused.status_code == 503
    [response_id] = late
    wait_until(lambda: http.get(f"/v1/responses/{response_id}").status_code == 404, "it to be taken back")


def test_a_job_under_a_key_stays_for_who_sends_the_key_again(http: httpx.Client, late: list[str]) -> None:
    request = {"json": {**DEEP, "background": True}, "headers": {"Idempotency-Key": "late-1"}}
    assert http.post("/v1/responses", **request).status_code == 503

    again = http.post("/v1/responses", **request)

    assert (again.status_code, again.json()["id"]) == (200, late[0])


def test_a_batch_that_was_refused_is_not_run_all_the_same(
    http: httpx.Client, api: AppServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, ids = api._app.state.services.batches, []
    create = batches.create

    async def create_late(spec: BatchSpec) -> None:
        await create(spec)
        ids.append(spec.id)
        raise queue_unavailable() from redis.TimeoutError("Timeout reading from socket")

    monkeypatch.setattr(batches, "create", create_late)
    question = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
    line = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": question})
    file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", line.encode())}).json()["id"]
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}

    assert http.post("/v1/batches", json=body).status_code == 503

    [batch_id] = ids
    taken_back = ("cancelling", "cancelled")
    wait_until(lambda: http.get(f"/v1/batches/{batch_id}").json()["status"] in taken_back, "it to be taken back")


def test_what_redis_took_before_it_fell_silent_is_taken_back_when_it_answers(
    http: httpx.Client, late: list[str], api: AppServer, redis_process: RedisProcess
) -> None:
    # Given a redis that hangs before it can be told to forget the job
    store, hung = api._app.state.services.store, []
    create = store.create

    async def create_and_hang(spec: JobSpec, *more: Any, **named: Any) -> Job:
        try:
            return await create(spec, *more, **named)
        finally:
            os.kill(redis_process.child.pid, signal.SIGSTOP)
            hung.append(True)

    store.create = create_and_hang
    try:
        assert http.post("/v1/responses", json={**DEEP, "background": True}).status_code == 503
    finally:
        os.kill(redis_process.child.pid, signal.SIGCONT)

    assert hung
    wait_until(lambda: http.get(f"/v1/responses/{late[0]}").status_code == 404, "it to be taken back")


@pytest.mark.parametrize(
    ("cause", "may_be"),
    [
        (RedisSilentError("redis has not answered for two seconds"), False),
        (redis.ConnectionError("Error 111 connecting to 127.0.0.1:6379. Connection refused."), False),
        (redis.TimeoutError("Timeout reading from socket"), True),
        (redis.ConnectionError("Connection closed by server."), True),
    ],
)
def test_only_what_was_sent_may_have_been_done(cause: Exception, may_be: bool) -> None:
    error = queue_unavailable()
    error.__cause__ = cause
    assert may_be_done(error) is may_be
    assert not may_be_done(storage_full())


def deep_chat(max_wait_s: float, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Compare the causes of both wars step by step."}]
    return {
        "model": "glowl",
        "messages": messages,
        "store": True,
        "hybrid": {"route": "deep", "max_wait_s": max_wait_s},
        **more,
    }


def ids_of(jobs: httpx.Response) -> set[str]:
    return {job["id"] for job in jobs.json()["data"]}


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_chat_that_waits_ends_with_its_wait_though_redis_has_fallen_silent(
    http: httpx.Client, redis_process: RedisProcess, is_stream: bool
) -> None:
    # Given a chat that waits for its job, which has no draft and nobody works on
    before = ids_of(http.get("/v1/jobs"))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            http.post,
            "/v1/chat/completions",
            json=deep_chat(2.5, stream=is_stream, model="mplug-owl2"),
            timeout=2.5 + GUARD_S,
        )
        wait_until(lambda: ids_of(http.get("/v1/jobs")) - before, "the job")
        [job_id] = ids_of(http.get("/v1/jobs")) - before

        # When redis hangs meanwhile
        with paused(redis_process.child.pid):
            answer = waiting.result()

    # Then it is told where the answer will be, soon after its wait, and that is true
    refused = json.loads(answer.text.split("data: ")[-2]) if is_stream else answer.json()
    assert answer.status_code == (200 if is_stream else 503)
    assert refused["error"]["code"] == "queue_unavailable"
    assert f"/v1/responses/{job_id}" in refused["error"]["message"]
    wait_until(lambda: http.get(f"/v1/responses/{job_id}").status_code == 200, "redis to answer again")
    http.post(f"/v1/responses/{job_id}/cancel")


def test_a_held_response_ends_soon_though_it_names_no_wait(
    http: httpx.Client, redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a response that is held for its job, which nobody works on
    monkeypatch.setattr(waiting, "REDIS_PATIENCE_S", 1.0)
    before = ids_of(http.get("/v1/jobs"))
    with ThreadPoolExecutor() as pool:
        held = pool.submit(http.post, "/v1/responses", json={**DEEP, "model": "mplug-owl2"}, timeout=GUARD_S)
        wait_until(lambda: ids_of(http.get("/v1/jobs")) - before, "the job")
        [job_id] = ids_of(http.get("/v1/jobs")) - before

        # When redis hangs meanwhile
        with paused(redis_process.child.pid):
            answer = held.result()

    # Then it is told where the answer will be, and that is true
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_unavailable")
    assert f"/v1/responses/{job_id}" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]
    wait_until(lambda: http.get(f"/v1/responses/{job_id}").status_code == 200, "redis to answer again")
    http.post(f"/v1/responses/{job_id}/cancel")


def test_a_held_response_outlives_a_short_silence(
    http: httpx.Client, redis_process: RedisProcess, api: AppServer
) -> None:
    watch = api._app.state.services.redis_watch
    before = ids_of(http.get("/v1/jobs"))
    with ThreadPoolExecutor() as pool:
        held = pool.submit(http.post, "/v1/responses", json={**DEEP, "model": "mplug-owl2"}, timeout=300)
        wait_until(lambda: ids_of(http.get("/v1/jobs")) - before, "the job")
        [job_id] = ids_of(http.get("/v1/jobs")) - before
        with paused(redis_process.child.pid):
            wait_until(lambda: watch.is_silent, "the api to notice")
        wait_until(lambda: http.post(f"/v1/responses/{job_id}/cancel").status_code == 200, "redis to answer again")
        assert held.result().json()["status"] == "cancelled"


@pytest.mark.parametrize("more", [{}, {"headers": {"Idempotency-Key": "silent-2"}}])
def test_a_new_deep_chat_is_refused_as_soon_as_somebody_notices(
    http: httpx.Client, redis_process: RedisProcess, api: AppServer, more: dict[str, Any]
) -> None:
    before = ids_of(http.get("/v1/jobs"))
    with paused(redis_process.child.pid):
        answer = http.post("/v1/chat/completions", json=deep_chat(60), timeout=GUARD_S, **more)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_unavailable")
    wait_until(lambda: not api._app.state.services.redis_watch.is_silent, "the api to notice")
    wait_until(lambda: ids_of(http.get("/v1/jobs")) == before, "it to be taken back")


@pytest.fixture
def late_end(api: AppServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Redis records an answer that has ended, and says so too late: their ids."""
    store, ids = api._app.state.services.store, []
    put_finished = store.put_finished

    async def put_late(job: Job, *more: Any, **named: Any) -> bool:
        await put_finished(job, *more, **named)
        ids.append(job.id)
        raise queue_unavailable() from redis.TimeoutError("Timeout reading from socket")

    monkeypatch.setattr(store, "put_finished", put_late)
    monkeypatch.setattr("router.direct._KEEP_PATIENCE_S", 0.0)
    return ids


def test_a_fast_answer_that_says_it_is_not_stored_is_not_found_later(http: httpx.Client, late_end: list[str]) -> None:
    answer = http.post("/v1/responses", json={"model": "glowl", "input": "你好"}).json()

    assert (answer["status"], answer["store"]) == ("completed", False)
    assert "redis" in answer["hybrid"]["degraded"][0]
    wait_until(lambda: http.get(f"/v1/responses/{late_end[0]}").status_code == 404, "it to be taken back")


def test_a_stream_whose_id_was_told_says_that_its_end_may_change(http: httpx.Client, late_end: list[str]) -> None:
    told = http.post("/v1/responses", json={"model": "glowl", "input": "你好", "stream": True}).text

    end = json.loads(told.rstrip().rpartition("data: ")[2])["response"]
    assert (end["status"], end["store"]) == ("completed", True)
    assert "结尾" in end["hybrid"]["degraded"][0]
    assert http.get(f"/v1/responses/{late_end[0]}").status_code == 200


@pytest.mark.parametrize("what", ["file", "endpoint"])
def test_a_file_and_an_endpoint_that_were_refused_are_not_there_later(
    http: httpx.Client, api: AppServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    # Given a redis that does what it is asked, and says so too late
    services = api._app.state.services
    store, name = (services.files, "commit") if what == "file" else (services.webhooks, "create_endpoint")
    made, make = [], getattr(store, name)

    async def make_late(*args: Any, **named: Any) -> None:
        made.append(await make(*args, **named))
        raise queue_unavailable() from redis.TimeoutError("Timeout reading from socket")

    monkeypatch.setattr(store, name, make_late)
    if what == "file":
        path, sent = "/v1/files", {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}\n")}}
    else:
        types = ["response.completed"]
        path, sent = (
            "/v1/webhook_endpoints",
            {"json": {"name": "late", "url": "https://example.com/h", "event_types": types}},
        )
    before = ids_of(http.get(path))

    assert http.post(path, **sent).status_code == 503

    assert made
    wait_until(lambda: ids_of(http.get(path)) == before, "it to be taken back")


def test_what_was_created_is_answered_from_what_was_written(
    http: httpx.Client, api: AppServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read after the write could fail, and make a refusal of what is there."""
    services = api._app.state.services

    async def hang(*_: Any) -> None:
        raise queue_unavailable()

    question = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
    line = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": question})
    with monkeypatch.context() as patch:
        patch.setattr(services.files, "get", hang)
        upload = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", line.encode())}}
        file = http.post("/v1/files", **upload).json()
    with monkeypatch.context() as patch:
        patch.setattr(services.batches, "get", hang)
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=body).json()
    with monkeypatch.context() as patch:
        patch.setattr(services.webhooks, "get_endpoint", hang)
        types = ["response.completed"]
        made = http.post(
            "/v1/webhook_endpoints", json={"name": "w", "url": "https://example.com/h", "event_types": types}
        )
    endpoint = made.json()
    assert endpoint.pop("signing_secret")

    assert file == http.get(f"/v1/files/{file['id']}").json()
    found = http.get(f"/v1/batches/{batch['id']}").json()
    assert (found["created_at"], found["expires_at"]) == (batch["created_at"], batch["expires_at"])
    assert (batch["status"], batch["input_file_id"]) == ("validating", file["id"])
    assert endpoint == http.get(f"/v1/webhook_endpoints/{endpoint['id']}").json()
    http.post(f"/v1/batches/{batch['id']}/cancel")
    http.delete(f"/v1/webhook_endpoints/{endpoint['id']}")
