"""The cache as clients see it: what is given again, how it says so, and who does without."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from PIL import Image

from engines.base import InvalidRequestError
from engines.echo import EchoEngine
from router.app import create_app
from router.health import EngineMonitor
from router.settings import Settings
from tests.support.pictures import data_url, to_part
from tests.support.servers import AppServer, RedisProcess


@pytest.fixture(scope="module")
def cached_api(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[AppServer]:
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        api_keys=("alice", "bob"),
        cache_bytes=1_000_000,
    )
    server = AppServer(create_app(settings))
    yield server
    server.stop()


@pytest.fixture
def http(cached_api: AppServer) -> Iterator[httpx.Client]:
    with as_owner(cached_api, "alice") as client:
        yield client


def as_owner(api: AppServer, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=api.url, headers=headers, trust_env=False, timeout=300)


@pytest.fixture
def glm(echoes: dict[str, EchoEngine]) -> EchoEngine:
    return echoes["glm"]


@pytest.fixture
def question() -> str:
    """One that nobody asked before."""
    return f"这是什么？{uuid.uuid4().hex}"


def respond(http: httpx.Client, question: Any, **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", {})
    response = http.post("/v1/responses", json={"model": "glowl", "input": question, **fields}, headers=headers)
    response.raise_for_status()
    return response


def chat(http: httpx.Client, question: str, **fields: Any) -> httpx.Response:
    body = {"model": "glowl", "messages": [{"role": "user", "content": question}], **fields}
    response = http.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    return response


def status(response: httpx.Response) -> str | None:
    return response.headers.get("x-glowl-cache")


def text_of(body: dict[str, Any]) -> str:
    return str(body["output"][-1]["content"][0]["text"])


def test_the_same_question_is_answered_by_the_same_answer_under_another_id(
    http: httpx.Client, glm: EchoEngine, question: str
) -> None:
    first = respond(http, question)
    runs = glm.num_started
    second = respond(http, question, metadata={"run": "2"}, user="u")

    assert (status(first), status(second)) == ("miss", "hit")
    assert glm.num_started == runs
    one, two = first.json(), second.json()
    assert text_of(one) == text_of(two)
    assert one["usage"] == two["usage"]
    assert one["id"] != two["id"]
    assert two["metadata"] == {"run": "2"}
    assert int(second.headers["age"]) >= 0
    assert "age" not in first.headers
    assert two["hybrid"]["cache"] == {"status": "hit", "age_s": int(second.headers["age"])}
    assert one["hybrid"]["cache"] == {"status": "miss", "age_s": None}
    assert one["hybrid"]["reasons"] == two["hybrid"]["reasons"]
    assert set(two["hybrid"]["timings"]) == {"total"}


def test_a_hit_is_on_record_and_reads_like_any_answer(http: httpx.Client, question: str) -> None:
    respond(http, question)
    hit = respond(http, question).json()

    polled = http.get(f"/v1/responses/{hit['id']}")
    assert polled.json() == hit
    assert status(polled) == "hit"
    events = [json.loads(line[6:]) for line in read_lines(http, f"/v1/responses/{hit['id']}?stream=true")]
    assert events[-1]["response"] == hit


def test_a_hit_tells_the_receiver_that_it_names(http: httpx.Client, question: str, redis_process: RedisProcess) -> None:
    respond(http, question)
    url = f"https://example.com/{uuid.uuid4().hex}"
    hit = respond(http, question, metadata={"webhook_url": url})

    assert status(hit) == "hit"
    with redis.Redis.from_url(redis_process.url) as client:
        found = [client.hgetall(key) for key in client.scan_iter("glowl:delivery:*")]
    told = [json.loads(each[b"body"])["data"]["id"] for each in found if each[b"url"].decode() == url]
    assert told == [hit.json()["id"]]


@pytest.mark.parametrize("route", ["fast", "deep"])
def test_nothing_is_kept_while_it_is_not_known_which_weights_answer(
    echo_urls: dict[str, str],
    redis_process: RedisProcess,
    question: str,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    # Given an api that has not heard of its engines yet, as while they load
    monkeypatch.setattr(EngineMonitor, "info", lambda *_: None)
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        cache_bytes=1_000_000,
    )
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, trust_env=False, timeout=300) as http:
        # When the same is asked twice
        answers = [respond(http, question, background=route == "deep", hybrid={"route": route}) for _ in range(2)]
    server.stop()
    # Then nothing of it is kept: when it is asked again, other weights may answer
    assert {status(each) for each in answers} <= {None, "joined"}


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A policy file that may be edited."""
    path = tmp_path / "own.yaml"
    path.write_text((resources.files("policies") / "presets" / "seed.yaml").read_text(encoding="utf-8"), "utf-8")
    return path


@pytest.fixture
def own_policy(echo_urls: dict[str, str], redis_process: RedisProcess, preset: Path) -> Iterator[httpx.Client]:
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        cache_bytes=1_000_000,
        preset=str(preset),
    )
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, trust_env=False, timeout=300) as client:
        yield client
    server.stop()


def test_an_edited_policy_answers_anew(own_policy: httpx.Client, preset: Path, question: str) -> None:
    # Given an answer that is given again
    assert [status(respond(own_policy, question)) for _ in range(2)] == ["miss", "hit"]

    # When the policy changes, be it in a rule that the question does not meet
    rules = preset.read_text("utf-8")
    edited = rules.replace("at_least: 0.5", "at_least: 0.7")
    assert edited != rules
    preset.write_text(edited, "utf-8")

    # Then it is answered anew, and by the old policy's answer once that is back
    assert [status(respond(own_policy, question)) for _ in range(2)] == ["miss", "hit"]
    preset.write_text(rules, "utf-8")
    assert status(respond(own_policy, question)) == "hit"


def test_a_hit_streams_in_pieces(http: httpx.Client, question: str) -> None:
    first = respond(http, question).json()
    with http.stream("POST", "/v1/responses", json={"model": "glowl", "input": question, "stream": True}) as response:
        assert status(response) == "hit"
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]

    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 3
    assert "".join(deltas) == text_of(first)
    assert events[-1]["type"] == "response.completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_a_chat_shares_the_cache_with_responses_if_it_asks_to(
    http: httpx.Client, glm: EchoEngine, question: str
) -> None:
    first = respond(http, question).json()
    runs = glm.num_started
    unstored = chat(http, question, hybrid={"cache": True})

    assert status(unstored) == "hit"
    assert unstored.json()["choices"][0]["message"]["content"] == text_of(first)
    assert unstored.json()["usage"]["total_tokens"] == first["usage"]["total_tokens"]
    assert glm.num_started == runs
    assert "x-glowl-response-id" not in unstored.headers


def test_a_chat_that_hits_streams(http: httpx.Client, question: str) -> None:
    first = respond(http, question).json()
    body = {"model": "glowl", "messages": [{"role": "user", "content": question}], "stream": True, "store": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert status(response) == "hit"
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]

    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text_of(first)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["hybrid"]["cache"]["status"] == "hit"


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"store": False}, {}),
        ({"hybrid": {"cache": False}}, {}),
        ({}, {"cache-control": "no-store"}),
        ({"temperature": 0.8}, {}),
    ],
)
def test_what_is_not_to_be_kept_is_neither_read_nor_kept(
    http: httpx.Client, glm: EchoEngine, question: str, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    respond(http, question)
    runs = glm.num_started
    asked = respond(http, question, headers=headers, **fields)
    assert status(asked) is None
    assert glm.num_started == runs + 1

    other = question + "？"
    respond(http, other, headers=headers, **fields)
    assert status(respond(http, other, **({"temperature": 0.8} if "temperature" in fields else {}))) != "hit"


def test_an_unstored_answer_is_kept_if_that_is_asked_for(http: httpx.Client, question: str) -> None:
    assert status(chat(http, question, hybrid={"cache": True})) == "miss"
    assert status(chat(http, question, hybrid={"cache": True})) == "hit"


@pytest.mark.parametrize("header", ["no-cache", "max-age=0", "No-Cache, foo"])
def test_an_answer_that_must_be_new_takes_the_place_of_the_old_one(
    http: httpx.Client, glm: EchoEngine, question: str, header: str
) -> None:
    respond(http, question)
    runs = glm.num_started

    assert status(respond(http, question, headers={"cache-control": header})) == "miss"
    assert glm.num_started == runs + 1
    hit = respond(http, question, headers={"cache-control": "max-age=60"})
    assert (status(hit), hit.headers["age"]) == ("hit", "0")


def test_a_seeded_answer_is_given_again_for_its_seed_only(http: httpx.Client, question: str) -> None:
    respond(http, question, temperature=1, seed=3)

    assert status(respond(http, question, temperature=1, seed=3)) == "hit"
    assert status(respond(http, question, temperature=1, seed=4)) == "miss"


def test_a_deleted_answer_is_given_to_nobody_again_whichever_copy_is_deleted(http: httpx.Client, question: str) -> None:
    respond(http, question)
    copy = respond(http, question)
    assert status(copy) == "hit"
    http.delete(f"/v1/responses/{copy.json()['id']}").raise_for_status()
    again = respond(http, question)
    assert status(again) == "miss"
    http.delete(f"/v1/responses/{again.json()['id']}").raise_for_status()
    assert status(respond(http, question)) == "miss"


def test_pictures_of_the_same_pixels_hit_and_one_pixel_is_another_question(http: httpx.Client, question: str) -> None:
    image = Image.new("RGB", (20, 10), "white")
    other = image.copy()
    other.putpixel((3, 3), (255, 255, 254))

    def show(image: Image.Image, **options: Any) -> str | None:
        parts = [
            {"type": "input_image", "image_url": data_url(to_part(image, **options))},
            {"type": "input_text", "text": question},
        ]
        return status(respond(http, [{"role": "user", "content": parts}]))

    assert show(image) == "miss"
    assert show(image, kind="BMP") == "hit"
    assert show(other) == "miss"
    assert show(other) == "hit"


def test_owners_never_share(cached_api: AppServer, http: httpx.Client, question: str) -> None:
    with as_owner(cached_api, "bob") as bob:
        found = [status(respond(client, question)) for client in (http, bob, http, bob)]

    assert found == ["miss", "miss", "hit", "hit"]


def test_a_failed_answer_is_not_kept(http: httpx.Client, glm: EchoEngine, question: str) -> None:
    glm.fail_with = InvalidRequestError("no")
    assert http.post("/v1/responses", json={"model": "glowl", "input": question}).status_code == 400
    glm.fail_with = None

    assert status(respond(http, question)) == "miss"


def test_a_key_that_is_sent_again_gets_the_hit_it_got(http: httpx.Client, question: str) -> None:
    respond(http, question)
    headers = {"idempotency-key": uuid.uuid4().hex}
    first, second = (respond(http, question, headers=headers) for _ in range(2))

    assert status(first) == status(second) == "hit"
    assert first.json()["id"] == second.json()["id"]


def test_background_work_that_hits_has_ended_at_once(http: httpx.Client, question: str) -> None:
    respond(http, question)
    body = respond(http, question, background=True).json()

    assert body["status"] == "completed"
    assert body["background"] is True
    assert http.get(f"/v1/responses/{body['id']}").json() == body


def read_lines(http: httpx.Client, path: str) -> Iterator[str]:
    with http.stream("GET", path) as response:
        yield from [line for line in response.iter_lines() if line.startswith("data: ")]


def test_who_wants_only_a_cached_answer_gets_that_or_a_504(http: httpx.Client, glm: EchoEngine, question: str) -> None:
    only = {"cache-control": "only-if-cached"}
    body = {"model": "glowl", "input": question}
    runs = glm.num_started

    refused = http.post("/v1/responses", json=body, headers=only)

    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
    assert refused.headers["x-should-retry"] == "false"
    assert glm.num_started == runs
    # Nor is a job made of it, or of a request whose answer is never cached.
    for more in ({"background": True}, {"store": False}, {"temperature": 0.7}):
        assert http.post("/v1/responses", json={**body, **more}, headers=only).status_code == 504
    respond(http, question)
    assert status(respond(http, question, headers=only)) == "hit"
