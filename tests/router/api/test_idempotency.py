"""A request that is sent again with its Idempotency-Key, as callers see it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import httpx
import openai
import pytest

from engines.base import EngineOverloadedError
from engines.echo import EchoEngine
from router import direct
from router.idempotency import KEEP_S
from router.lua.constants import NET_S
from router.redis import PREFIX, queue_unavailable
from tests.support.raw import send
from tests.support.servers import AppServer, RedisProcess, wait_until

CHAT = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
FAST = {"model": "glowl", "input": "你好"}
DEEP = {"model": "glowl", "input": "What colour is the owl?", "background": True}
OLDER = {"prompt": "你好"}

_numbers = itertools.count()


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": f"key-{next(_numbers)}"}


def is_replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


@pytest.fixture
def num_asked(echoes: dict[str, EchoEngine], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every request that reaches GLM."""
    asked: list[int] = []
    stream = echoes["glm"].stream

    def counted(request: Any) -> Any:
        asked.append(1)
        return stream(request)

    monkeypatch.setattr(echoes["glm"], "stream", counted)
    return asked


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/responses", FAST),
        ("/v1/responses", {**FAST, "store": False}),
        ("/api/v1/inference", OLDER),
        ("/v1/vision/completion", OLDER),
    ],
)
def test_a_fast_answer_is_given_again_without_the_engine(
    http: httpx.Client, key: dict[str, str], num_asked: list[int], path: str, body: dict[str, Any]
) -> None:
    first = http.post(path, json=body, headers=key)
    again = http.post(path, json=body, headers=key)

    assert (first.status_code, is_replayed(first), is_replayed(again)) == (200, False, True)
    assert again.json() == first.json()
    assert len(num_asked) == 1


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", FAST)])
@pytest.mark.parametrize("extra", [{}, {"stream_options": {"include_usage": True}, "store": True}])
def test_a_stream_is_given_again_from_its_start_byte_for_byte(
    http: httpx.Client,
    key: dict[str, str],
    num_asked: list[int],
    path: str,
    body: dict[str, Any],
    extra: dict[str, Any],
) -> None:
    body = {**body, **extra, "stream": True}
    first = http.post(path, json=body, headers=key)
    again = http.post(path, json=body, headers=key)

    assert first.text.count("data: ") >= 4  # what arrives together is told together
    assert again.text == first.text
    assert is_replayed(again)
    assert len(num_asked) == 1


def test_a_running_job_is_attached_to(http: httpx.Client, key: dict[str, str]) -> None:
    first, again = (http.post("/v1/responses", json=DEEP, headers=key) for _ in range(2))

    assert (first.json()["status"], again.json()["status"]) == ("queued", "queued")
    assert again.json()["id"] == first.json()["id"]
    assert (is_replayed(first), is_replayed(again)) == (False, True)
    # And ended, it is that answer
    http.post(f"/v1/responses/{first.json()['id']}/cancel")
    assert http.post("/v1/responses", json=DEEP, headers=key).json()["status"] == "cancelled"


def test_many_copies_of_a_request_at_once_are_one_job(api: AppServer, key: dict[str, str]) -> None:
    async def send_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=api.url, timeout=300, trust_env=False) as client:
            return await asyncio.gather(*(client.post("/v1/responses", json=DEEP, headers=key) for _ in range(16)))

    answers = asyncio.run(send_all())

    assert {answer.status_code for answer in answers} <= {200, 409}
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 409)
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 200}) == 1


def test_the_unmodified_client_waits_out_a_conflict(
    api: AppServer, echoes: dict[str, EchoEngine], key: dict[str, str], http: httpx.Client
) -> None:
    # Given a fast answer under way
    echoes["glm"].delta_delay_s = 0.05
    first: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: first.append(http.post("/v1/responses", json=FAST, headers=key)))
    thread.start()
    wait_until(lambda: echoes["glm"].num_running == 1, "the answer to begin")
    refused = httpx.post(api.url + "/v1/responses", json=FAST, headers=key, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_in_use")

    # When the client sends the same, with the retries that it makes by itself
    raw = httpx.Request("POST", "http://x", json=FAST).content
    with openai.OpenAI(base_url=api.url + "/v1", api_key="unused") as client:
        again = client.post("/responses", content=raw, cast_to=httpx.Response, options={"headers": key})
    thread.join(300)

    assert again.json()["id"] == first[0].json()["id"]


@pytest.mark.parametrize("body", [FAST, DEEP])
def test_another_body_under_the_same_key_is_refused(
    http: httpx.Client, key: dict[str, str], body: dict[str, Any]
) -> None:
    http.post("/v1/responses", json=body, headers=key)

    refused = http.post("/v1/responses", json={**body, "input": "什么？"}, headers={**key, "Accept-Language": "zh"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reuse")
    assert "Idempotency-Key 已用于" in refused.json()["error"]["message"]


def test_a_request_that_was_refused_may_be_sent_again_mended(http: httpx.Client, key: dict[str, str]) -> None:
    assert http.post("/v1/responses", json={**FAST, "model": "nobody"}, headers=key).status_code == 404

    assert http.post("/v1/responses", json=FAST, headers=key).status_code == 200


@pytest.mark.parametrize("num_deltas", [0, 2])
def test_an_answer_that_failed_is_made_again(
    http: httpx.Client, key: dict[str, str], echoes: dict[str, EchoEngine], num_deltas: int
) -> None:
    echoes["glm"].fail_with = EngineOverloadedError("no room")
    echoes["glm"].fail_after_deltas = num_deltas
    body = {**FAST, "model": "glm-4.6v-flash"}  # no other may answer
    assert http.post("/v1/responses", json=body, headers=key).status_code == 429
    echoes["glm"].fail_with = None

    again = http.post("/v1/responses", json=body, headers=key)

    assert (again.status_code, is_replayed(again)) == (200, False)


@pytest.fixture
def num_misses(api: AppServer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """So often redis is away when a fast answer is to be stored."""
    left: list[int] = [0]
    store = api._app.state.services.store
    put_finished = store.put_finished

    async def put(job: Any, images: Any = (), **fields: Any) -> bool:
        if left[0]:
            left[0] -= 1
            raise queue_unavailable()
        return bool(await put_finished(job, images, **fields))

    monkeypatch.setattr(store, "put_finished", put)
    return left


def test_an_answer_under_a_key_waits_for_redis_to_come_back(
    http: httpx.Client, key: dict[str, str], num_asked: list[int], num_misses: list[int]
) -> None:
    num_misses[0] = 3

    first = http.post("/v1/responses", json=FAST, headers=key)
    again = http.post("/v1/responses", json=FAST, headers=key)

    assert (first.status_code, first.json()["store"], is_replayed(again)) == (200, True, True)
    assert again.json() == first.json()
    assert len(num_asked) == 1


def test_an_answer_under_a_key_that_cannot_be_stored_is_a_503_and_not_one_of_two(
    http: httpx.Client, key: dict[str, str], num_misses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_KEEP_PATIENCE_S", 0.0)
    num_misses[0] = 1

    refused = http.post("/v1/responses", json=FAST, headers=key)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    answers = [http.post("/v1/responses", json=FAST, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


def test_an_answer_that_nobody_waited_for_is_made_again(
    api: AppServer, http: httpx.Client, key: dict[str, str], echoes: dict[str, EchoEngine]
) -> None:
    echoes["glm"].delta_delay_s = 3600.0
    raw = httpx.Request("POST", "http://x", json=FAST).content
    connection = send(api, "/v1/responses", FAST, headers=key, raw=raw)
    wait_until(lambda: echoes["glm"].num_running == 1, "the answer to begin")
    connection.close()
    wait_until(lambda: echoes["glm"].num_running == 0, "the engine to be free")
    echoes["glm"].delta_delay_s = 0.0

    def answered() -> httpx.Response | None:
        again = http.post("/v1/responses", json=FAST, headers=key)
        return again if again.status_code == 200 else None

    assert not is_replayed(wait_until(answered, "the key to be free"))


def test_what_was_deleted_is_a_404_and_not_a_second_answer(http: httpx.Client, key: dict[str, str]) -> None:
    first = http.post("/v1/responses", json=FAST, headers=key).json()
    http.delete(f"/v1/responses/{first['id']}")

    again = http.post("/v1/responses", json=FAST, headers=key)

    assert (again.status_code, again.json()["error"]["code"]) == (404, "response_not_found")


@pytest.mark.parametrize("value", ["", "k" * 256])
def test_a_key_of_no_length_or_too_much_is_refused(http: httpx.Client, value: str) -> None:
    refused = http.post("/v1/responses", json=FAST, headers={"Idempotency-Key": value})

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_idempotency_key")


def test_keys_of_different_callers_are_different(keyed_api: AppServer, key: dict[str, str]) -> None:
    ids = {
        httpx.post(
            keyed_api.url + "/v1/responses",
            json=FAST,
            headers={**key, "Authorization": f"Bearer {caller}"},
            trust_env=False,
        ).json()["id"]
        for caller in ("alice", "bob")
    }

    assert len(ids) == 2


def test_an_answer_under_a_key_lives_a_day_even_if_it_is_not_stored(
    http: httpx.Client, key: dict[str, str], redis_process: RedisProcess, redis_client: Any
) -> None:
    chat = http.post("/v1/chat/completions", json=CHAT, headers=key).json()
    deep = http.post(
        "/v1/responses", json={**DEEP, "background": False, "store": False, "hybrid": {"async": "auto"}}, headers=key
    )
    http.post(f"/v1/responses/{deep.json()['id']}/cancel")

    assert chat["hybrid"]["response_id"] is None
    for job_id in (chat["id"].replace("chatcmpl-", "resp_"), deep.json()["id"]):
        assert KEEP_S - 60 < redis_client.ttl(f"{PREFIX}job:{job_id}") <= KEEP_S + NET_S


def test_the_docs_name_the_header_where_it_counts(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]

    named = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", []))
    }
    assert named == {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/api/v1/inference",
        "/v1/vision/completion",
    }
