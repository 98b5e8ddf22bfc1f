"""Direct answers whose id or webhook is promised before they end: on record by then, and healed if their api dies."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import redis

from engines.base import ContextLengthError
from engines.echo import EchoEngine
from router.errors import QueueUnavailableError
from router.redis import PREFIX
from tests.router.api.test_resume import events_of, read
from tests.router.api.test_unstored import jobs_of
from tests.support.servers import AppServer, wait_until

Json = dict[str, Any]
CHAT: Json = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
RESPONSE: Json = {"model": "glowl", "input": "你好"}
HOOK = "http://example.com/hook"


@pytest.fixture(autouse=True)
def _nothing_there(redis_client: redis.Redis) -> None:
    for kind in ("job", "delivery"):
        for key in redis_client.scan_iter(f"{PREFIX}{kind}:*"):
            redis_client.delete(key)
    redis_client.delete(*(f"{PREFIX}{name}" for name in ("unfinished", "leases", "queues")))


def deliveries_of(client: redis.Redis) -> list[tuple[str, str]]:
    keys = list(client.scan_iter(f"{PREFIX}delivery:*"))
    return [
        (client.hget(key, "type").decode(), json.loads(client.hget(key, "body"))["data"]["id"])  # type: ignore[union-attr]
        for key in keys
    ]


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", {**CHAT, "store": True}), ("/v1/responses", RESPONSE)]
)
def test_an_id_that_a_stream_begins_with_leads_to_a_record_at_once(
    http: httpx.Client, echoes: dict[str, EchoEngine], redis_client: redis.Redis, path: str, body: Json
) -> None:
    # Given a direct answer of which the first words are there
    echoes["glm"].delta_delay_s = 0.05
    lines: list[str] = []
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        job_id = answer.headers["x-glowl-response-id"]
        source = answer.iter_lines()
        lines.append(next(source))

        # When it is read by somebody else meanwhile, then it is there, and is the same at the end
        polled = http.get(f"/v1/responses/{job_id}").json()
        assert (polled["status"], polled["output"]) == ("in_progress", [])
        listed = [job["id"] for job in http.get("/v1/jobs").json()["data"]]
        assert job_id in listed
        echoes["glm"].delta_delay_s = 0.0
        followed = read(http, job_id)
        lines += list(source)

    assert followed[-1]["type"] == "response.completed"
    if path == "/v1/responses":
        assert events_of("\n".join(lines)) == followed
    # And nothing of its being under way is left
    assert redis_client.hgetall(f"{PREFIX}unfinished") == {}
    assert not [member for member in redis_client.zrange(f"{PREFIX}leases", 0, -1) if job_id.encode() in member]
    assert int(redis_client.hget(f"{PREFIX}queues", "running:glm") or 0) == 0


def test_an_answer_that_fails_before_its_id_is_told_leaves_no_record(
    http: httpx.Client, echoes: dict[str, EchoEngine], redis_client: redis.Redis
) -> None:
    echoes["glm"].fail_with = ContextLengthError("too long")

    assert http.post("/v1/responses", json={**RESPONSE, "stream": True}).status_code == 400

    wait_until(lambda: "in_progress" not in jobs_of(redis_client).values(), "the record to go")
    assert redis_client.hgetall(f"{PREFIX}unfinished") == {}


@pytest.mark.parametrize("fields", [{}, {"store": False}, {"store": False, "stream": True}, {"stream": True}])
@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSE)])
def test_a_webhook_that_is_named_is_told_of_a_direct_answer_once(
    http: httpx.Client, redis_client: redis.Redis, path: str, body: Json, fields: Json
) -> None:
    # Given an endpoint too, which hears only of jobs
    created = http.post("/v1/webhook_endpoints", json={"name": "n", "url": HOOK, "event_types": ["response.completed"]})

    http.post(path, json={**body, **fields, "metadata": {"webhook_url": HOOK}}).read()

    http.delete(f"/v1/webhook_endpoints/{created.json()['id']}")
    [(kind, job_id)] = wait_until(lambda: deliveries_of(redis_client), "the delivery")
    assert kind == "response.completed"
    # And the id that it is told can be read
    assert http.get(f"/v1/responses/{job_id}").json()["status"] == "completed"


def test_without_a_webhook_nobody_is_told_of_a_direct_answer(http: httpx.Client, redis_client: redis.Redis) -> None:
    http.post("/v1/responses", json=RESPONSE)

    assert deliveries_of(redis_client) == []


def test_a_chat_that_nobody_stores_asks_redis_for_nothing(
    http: httpx.Client, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, api: AppServer
) -> None:
    store = api._app.state.services.store

    async def run(*_: Any) -> None:
        raise AssertionError("redis was asked")

    monkeypatch.setattr(store, "_run", run)

    for stream in (False, True):
        answer = http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert "[echo" in answer.text
        assert "error" not in answer.text


@pytest.mark.parametrize("metadata", [{}, {"webhook_url": HOOK}])
def test_without_redis_a_stream_is_not_stored_unless_more_was_promised(
    http: httpx.Client, api: AppServer, monkeypatch: pytest.MonkeyPatch, metadata: Json
) -> None:
    async def begin(*_: Any) -> None:
        raise QueueUnavailableError("away")

    monkeypatch.setattr(api._app.state.services.store, "begin", begin)

    answer = http.post("/v1/responses", json={**RESPONSE, "stream": True, "metadata": metadata})

    if metadata:
        assert answer.status_code == 503
        return
    events = events_of(answer.text)
    assert {event["response"]["store"] for event in events if "response" in event} == {False}
    assert "x-glowl-response-id" not in answer.headers
    assert http.get(f"/v1/responses/{events[0]['response']['id']}").status_code == 404


def test_a_direct_answer_is_cancelled_by_its_id(http: httpx.Client, echoes: dict[str, EchoEngine]) -> None:
    # Given an answer that would take minutes
    echoes["glm"].delta_delay_s = 0.4
    with http.stream("POST", "/v1/responses", json={**RESPONSE, "stream": True}) as answer:
        cancelled = http.post(f"/v1/responses/{answer.headers['x-glowl-response-id']}/cancel").json()
        told = events_of("\n".join(answer.iter_lines()))

    assert cancelled["status"] == told[-1]["response"]["status"] == "cancelled"
    assert told[-1]["type"] == "response.incomplete"


def test_an_answer_whose_api_died_is_told_from_the_beginning_only(
    http: httpx.Client, redis_client: redis.Redis
) -> None:
    # Given an answer that a worker has written again after the api that began it died
    job_id = http.post("/v1/responses", json=RESPONSE).json()["id"]
    key = f"{PREFIX}job:{job_id}"
    redis_client.hset(key, "fast.epoch", 2)

    again = read(http, job_id, starting_after=3)

    assert [(event["type"], event["code"], event["sequence_number"]) for event in again] == [
        ("error", "answer_restarted", 4)
    ]
    assert read(http, job_id)[-1]["type"] == "response.completed"
