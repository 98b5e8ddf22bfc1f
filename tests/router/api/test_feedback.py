"""Answers that are kept for data sets, and what callers say of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as blocking_redis
from redis.asyncio import Redis

from router.app import create_app
from router.auth.key_text import digest_of
from router.auth.records import configured_owner
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.loop.capture import Capture
from router.loop.records import Exchange
from router.loop.store import LoopStore
from router.settings import Settings
from tests.support.exchanges import make_picture
from tests.support.servers import AppServer, RedisProcess, wait_until

Json = dict[str, Any]
PICTURE = f"data:image/png;base64,{base64.b64encode(make_picture().data).decode()}"
CONTENT: list[Json] = [
    {"type": "image_url", "image_url": {"url": PICTURE}},
    {"type": "text", "text": "多少？13812345678"},
]
CHAT: Json = {"model": "glowl", "messages": [{"role": "user", "content": CONTENT}], "hybrid": {"route": "fast"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def database(redis_process: RedisProcess) -> str:
    """One of its own: one api collects for all on a redis, and those of other tests have no such owner."""
    url = redis_process.url.replace("db=0", "db=9")
    with blocking_redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="module")
def keeping(echo_urls: dict[str, str], database: str, folder: Path) -> Iterator[AppServer]:
    """An api that keeps what the first of its two keys asks."""
    settings = Settings(
        REDIS_URL=database,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        api_keys=("alice", "bob"),
        capture=((configured_owner(digest_of("alice")), "pictures"),),
        data_dir=folder,
        cache_bytes=0,
    )
    server = AppServer(create_app(settings))
    yield server
    server.stop()


@pytest.fixture
def alice(keeping: AppServer) -> Iterator[httpx.Client]:
    with _client(keeping, "alice") as client:
        yield client


@pytest.fixture
def bob(keeping: AppServer) -> Iterator[httpx.Client]:
    with _client(keeping, "bob") as client:
        yield client


def _client(server: AppServer, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=300, trust_env=False)


def _kept(folder: Path, response_id: str) -> Exchange | None:
    if not (folder / "loop").exists():
        return None
    with LoopStore(folder / "loop") as store:
        return store.get(response_id)


def test_a_chat_that_is_stored_nowhere_else_takes_feedback(
    alice: httpx.Client, bob: httpx.Client, folder: Path
) -> None:
    # Given an answer that nobody asked to be stored
    chat_id = alice.post("/v1/chat/completions", json=CHAT).json()["id"]
    path = f"/v1/responses/{chat_id}/feedback"
    assert alice.get(path).json()["error"]["code"] == "feedback_not_found"
    # When something is said of it, and then something else
    first = alice.post(path, json={"rating": "up"})
    said = {"rating": "down", "correction": {"total": "4"}, "fields": {"total": "4"}, "comment": "write to a@b.cn"}
    second = alice.post(path, json=said)
    # Then the last word stands, as it may be kept
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json() == alice.get(path).json()
    assert {name: second.json()[name] for name in said} == {**said, "comment": "write to [email]"}
    kept = _kept(folder, second.json()["response_id"])
    assert kept is not None
    assert kept.feedback is not None
    assert (kept.question, kept.route, kept.feedback.rating) == ("多少？[phone]", "fast", "down")
    # And a blank correction is none, or it would count as what was right
    assert alice.post(path, json={"rating": "down", "correction": "  "}).json()["correction"] is None
    # And nobody else may read or say anything
    answer, unknown = bob.get(path), bob.get("/v1/responses/resp_none/feedback")
    assert (answer.status_code, unknown.status_code) == (404, 404)
    told = answer.json()["error"], unknown.json()["error"]
    assert told[0] == {**told[1], "message": told[0]["message"]}  # nothing tells whether it is there
    assert bob.post(path, json={"rating": "up"}).status_code == 404


def test_what_waits_for_a_right_answer_is_shown_to_its_owner_alone(alice: httpx.Client, bob: httpx.Client) -> None:
    # Given four answers, of which three were found wrong, and of one of them it was said what is right
    chats = [alice.post("/v1/chat/completions", json=CHAT).json()["id"] for _ in range(4)]
    ids = [f"resp_{each.removeprefix('chatcmpl-')}" for each in chats]
    for chat_id in chats[1:]:
        alice.post(f"/v1/responses/{chat_id}/feedback", json={"rating": "down"})
    alice.post(f"/v1/responses/{ids[3]}/feedback", json={"rating": "down", "correction": "4"})
    # When the queue is read, page by page, then it has the other two, the newest first
    first = alice.get("/v1/review", params={"limit": 1}).json()
    second = alice.get("/v1/review", params={"limit": 100, "after": first["last_id"]}).json()
    assert [each["id"] for each in first["data"] + second["data"]][:2] == [ids[2], ids[1]]
    assert first["has_more"]
    assert not {ids[0], ids[3]} & {each["id"] for each in second["data"]}
    item = first["data"][0]
    assert (item["question"], item["reasons"], item["rating"]) == ("多少？[phone]", ["down"], "down")
    assert item["answers"] == {"glm": item["answer"], "owl2": None}
    (picture,) = item["pictures"]
    assert (picture["is_kept"], picture["width"]) == (True, 40)
    path = f"/v1/review/{ids[2]}/pictures/{picture['sha256']}"
    read = alice.get(path)
    assert read.content == make_picture().data
    assert read.headers["content-disposition"] == "attachment"
    # And nobody else sees any of it, nor another file by this way
    assert bob.get("/v1/review").json()["data"] == []
    assert bob.get(path).status_code == 404
    assert alice.get(path[:-3] + "000").json()["error"]["code"] == "file_not_found"
    for client, after in ((bob, ids[2]), (alice, "resp_none")):
        assert client.get("/v1/review", params={"after": after}).json()["error"]["param"] == "after"
    # Then what is said takes it out of the queue
    alice.post(f"/v1/responses/{ids[2]}/feedback", json={"rating": "up"})
    assert alice.get("/v1/review", params={"limit": 1}).json()["data"][0]["id"] == ids[1]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "rating"),
        ({"rating": "meh"}, "rating"),
        ({"comment": " \u0000\u3000"}, "rating"),
        ({"correction": " \u3000\n"}, "rating"),
        ({"correction": 4}, "correction"),
        ({"comment": "x" * 100_001}, "comment"),
    ],
)
def test_what_is_no_feedback_is_refused(alice: httpx.Client, body: Json, param: str) -> None:
    chat_id = alice.post("/v1/chat/completions", json=CHAT).json()["id"]
    answer = alice.post(f"/v1/responses/{chat_id}/feedback", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize("body", [{}, {"store": False}], ids=["owner", "request"])
def test_without_consent_an_answer_is_not_kept(
    alice: httpx.Client, bob: httpx.Client, folder: Path, body: Json
) -> None:
    # Given an owner who has not agreed, or a request that forbids it
    if body:
        chat_id = alice.post("/v1/chat/completions", json={**CHAT, **body}).json()["id"]
        assert alice.post(f"/v1/responses/{chat_id}/feedback", json={"rating": "up"}).status_code == 404
        assert _kept(folder, chat_id.replace("chatcmpl-", "resp_")) is None
        return
    made = bob.post("/v1/responses", json={"model": "glowl", "input": "你好", "hybrid": {"route": "fast"}}).json()
    answer = bob.post(f"/v1/responses/{made['id']}/feedback", json={"rating": "up"})
    # Then feedback is refused, and the error says how to switch it on
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_captured")
    assert "--capture" in answer.json()["error"]["message"]
    assert _kept(folder, made["id"]) is None


def test_a_job_is_kept_at_its_end_whoever_ran_it(alice: httpx.Client, database: str, folder: Path) -> None:
    # Given a job, which takes no feedback while it runs
    content = [{"type": "input_image", "image_url": PICTURE}, {"type": "input_text", "text": "How many?"}]
    body = {"model": "glowl", "input": [{"role": "user", "content": content}], "background": True}
    job_id = alice.post("/v1/responses", json={**body, "hybrid": {"route": "deep"}}).json()["id"]
    early = alice.post(f"/v1/responses/{job_id}/feedback", json={"rating": "up"})
    assert (early.status_code, early.json()["error"]["code"]) == (409, "response_in_progress")

    # When a worker somewhere ends it
    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            redis = await stack.enter_async_context(Redis.from_url(database))
            store = JobStore(redis, lease_s=300)
            for unit, text in (("draft", "three"), ("deep", "four")):
                epoch = await store.claim(job_id, unit)
                assert epoch is not None
                await store.finish(job_id, unit, epoch, UnitResult(text, f"model-{unit}"))
            epoch = await store.claim(job_id, "merge")
            assert epoch is not None
            final = FinalAnswer("four", "model-deep", "owl2", "deep", agreement=0.0)
            await store.complete(job_id, epoch, final=final, job=await store.get(job_id))

    asyncio.run(work())
    # Then the exchange is there with both answers and the picture
    kept = wait_until(lambda: _kept(folder, job_id), "the exchange", timeout_s=300)
    assert (kept.draft, kept.deep, kept.final, kept.agreement) == ("three", "four", "four", 0.0)
    with LoopStore(folder / "loop") as store:
        assert store.pictures(kept.pictures)[make_picture().sha256].file is not None
    assert alice.post(f"/v1/responses/{job_id}/feedback", json={"rating": "down"}).status_code == 200
    # And deleting the response deletes all of it
    assert alice.delete(f"/v1/responses/{job_id}").json()["deleted"]
    assert _kept(folder, job_id) is None
    assert alice.get(f"/v1/responses/{job_id}/feedback").status_code == 404


def test_what_is_kept_alone_can_be_deleted(alice: httpx.Client, bob: httpx.Client, folder: Path) -> None:
    chat_id = alice.post("/v1/chat/completions", json=CHAT).json()["id"]
    response_id = chat_id.replace("chatcmpl-", "resp_")
    assert bob.delete(f"/v1/responses/{response_id}").status_code == 404
    assert alice.delete(f"/v1/responses/{chat_id}").json()["deleted"]
    assert _kept(folder, response_id) is None
    assert alice.delete(f"/v1/responses/{response_id}").status_code == 404


def test_a_store_that_cannot_be_read_is_a_503(
    alice: httpx.Client, monkeypatch: pytest.MonkeyPatch, keeping: AppServer
) -> None:
    chat_id = alice.post("/v1/chat/completions", json=CHAT).json()["id"]

    async def fails(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Capture, "say", fails)
    answer = alice.post(f"/v1/responses/{chat_id}/feedback", json={"rating": "up"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loop_unavailable")
