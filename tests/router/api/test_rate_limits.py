"""Limits as callers meet them: headers, refusals, and what is given back."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import redis
from openai import _base_client
from PIL import Image
from redis.asyncio import Redis

from engines.base import EngineOverloadedError
from engines.echo import EchoEngine
from router.app import create_app
from router.auth.admin import create_key, create_owner
from router.auth.store import OwnerStore
from router.jobs.store import JobStore
from router.limits import charges
from router.limits.limits import Limits
from router.limits.meters import Subject, to_subject
from router.lua.constants import MINUTE_US
from router.settings import Settings
from tests.router.api.routes.test_jobs import fail
from tests.router.api.test_errors import data_url
from tests.support.servers import AppServer, RedisProcess, wait_until

CHAT = {"model": "glowl", "messages": [{"role": "user", "content": "你好，请问现在几点？"}]}
DEEP = {"model": "glowl", "input": "What colour is the owl?", "background": True}
DURATION = re.compile(r"(\d+m)?\d+(\.\d{1,3})?s|\d+ms")

_names = map("owner-{}".format, itertools.count())


@pytest.fixture(scope="module")
def database(redis_process: RedisProcess) -> str:
    """One of its own: owners in it make keys needed."""
    url = redis_process.url.replace("db=0", "db=3")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="module")
def limited(echo_urls: dict[str, str], database: str) -> Iterator[AppServer]:
    settings = Settings(REDIS_URL=database, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"])
    server = AppServer(create_app(settings))
    yield server
    server.stop()


class Owner:
    """An owner of a test's own, and a client with its key."""

    def __init__(self, url: str, database: str, limits: str) -> None:
        self.limits, self._database = Limits.parse(limits), database
        self.id, key = asyncio.run(self._make(next(_names)))
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=300, trust_env=False)
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=2)
        # The api is told of the key by a message. As long as it knows of no owner at all, it answers every key.
        wrong = {"authorization": "Bearer wrong"}
        wait_until(lambda: self.http.get("/v1/models", headers=wrong).status_code == 401, "the api to need a key")
        wait_until(lambda: self.http.get("/v1/models").status_code == 200, "the api to know the key")

    async def _make(self, name: str) -> tuple[str, str]:
        async with Redis.from_url(self._database) as client:
            store = OwnerStore(client)
            owner = await store.change(partial(create_owner, now=0.0, name=name, limits=self.limits))
            made = await store.change(partial(create_key, now=0.0, owner_name=name))
            return owner.id, made.text

    @property
    def subject(self) -> Subject:
        return to_subject("owner", self.id, self.limits)

    def ask(self, **more: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=CHAT | more)

    def owe(self, kind: str, units: int) -> None:
        with redis.Redis.from_url(self._database) as client:
            client.hset(f"glowl:meter:{self.subject.name}", kind, units * MINUTE_US)

    def settled(self) -> list[list[bytes]]:
        """The ledger, once all requests are settled: that is done for several at a time."""
        wait_until(lambda: {entry[0] for entry in self.ledger()} == {b"settled"}, "the end of all requests")
        return self.ledger()

    def ledger(self) -> list[list[bytes]]:
        with redis.Redis.from_url(self._database) as client:
            pages = client.keys(f"glowl:ledger:{self.subject.name}:*")
            return [entry.split()[:5] for page in pages for entry in client.hvals(page)]

    def close(self) -> None:
        self.http.close()
        self.openai.close()


@pytest.fixture
def owned(limited: AppServer, database: str) -> Iterator[Callable[[str], Owner]]:
    made: list[Owner] = []

    def make(limits: str) -> Owner:
        made.append(Owner(limited.url, database, limits))
        return made[-1]

    yield make
    for owner in made:
        owner.close()


def test_an_answer_says_what_is_left(owned: Callable[[str], Owner]) -> None:
    answer = owned("requests=5/min, tokens=10k/min").ask()

    assert answer.status_code == 200
    said = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit-")}
    assert said.keys() == {
        f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
    }
    assert (said["x-ratelimit-limit-requests"], said["x-ratelimit-remaining-requests"]) == ("5", "4")
    assert said["x-ratelimit-limit-tokens"] == "10000"
    assert 9700 < int(said["x-ratelimit-remaining-tokens"]) < 10_000
    assert said["x-ratelimit-reset-requests"] == "12s"
    assert DURATION.fullmatch(said["x-ratelimit-reset-tokens"])


def test_one_request_too_many_is_refused_with_the_time_to_wait(owned: Callable[[str], Owner]) -> None:
    owner = owned("requests=2/min")
    assert [owner.ask().status_code for _ in range(2)] == [200, 200]

    refused = owner.ask()
    again = owner.http.post("/v1/chat/completions", json=CHAT, headers={"accept-language": "zh"})

    assert refused.status_code == again.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["message"].startswith("The limit of this owner is reached: 2 requests a minute. Try again in ")
    assert again.json()["error"]["message"].startswith("已达到该所有者的限额：每分钟 2 个请求。请在 ")
    assert 0 < int(refused.headers["retry-after-ms"]) <= 30_000
    assert int(refused.headers["retry-after"]) * 1000 - int(refused.headers["retry-after-ms"]) in range(1000)
    assert "x-should-retry" not in refused.headers
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


def test_the_client_of_openai_waits_as_long_as_it_is_told_and_is_answered_then(
    owned: Callable[[str], Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = owned("requests=60/min")
    owner.ask()
    owner.owe("requests", 110)
    slept: list[float] = []

    def sleep(duration_s: float) -> None:
        slept.append(duration_s)
        owner.owe("requests", 0)  # as if so much time had passed

    monkeypatch.setattr(_base_client, "time", SimpleNamespace(sleep=sleep, time=time.time))
    monkeypatch.setattr(charges, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + sum(slept)))

    answer = owner.openai.chat.completions.with_raw_response.create(**CHAT)

    assert (answer.status_code, answer.retries_taken) == (200, 1)
    [waited_s] = slept
    assert 2 < waited_s <= 51  # its own guess would be under 1 s


def test_what_was_reserved_and_not_used_is_given_back(owned: Callable[[str], Owner]) -> None:
    owner = owned("tokens=1000000/min")
    bodies = [{}, {"max_tokens": 100}, {"stream": True}, {"store": True}, {"stream": True, "store": True}]
    used = 0
    for more in bodies:
        answer = owner.ask(stream_options={"include_usage": True} if "stream" in more else None, **more)
        assert answer.status_code == 200
        found = re.findall(r'"total_tokens": ?(\d+)', answer.text)
        used += int(found[-1])

    entries = owner.settled()
    assert len(entries) == len(bodies)
    assert sum(int(entry[4]) for entry in entries) == used


def test_a_request_that_no_engine_answered_costs_no_tokens(
    owned: Callable[[str], Owner], echoes: dict[str, EchoEngine]
) -> None:
    owner = owned("requests=5, tokens=1000")
    echoes["glm"].fail_with = EngineOverloadedError("full")

    assert owner.ask(model="glm-4.6v-flash").status_code == 429

    assert owner.settled() == [[b"settled", b"1", b"0", b"0", b"0"]]


def test_a_client_that_hangs_up_pays_for_what_it_was_sent(
    owned: Callable[[str], Owner], echoes: dict[str, EchoEngine]
) -> None:
    owner = owned("tokens=1000/min, concurrent=1")
    echoes["glm"].delta_delay_s = 0.2
    with owner.http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        next(answer.iter_lines())

    assert 0 < int(owner.settled()[0][4]) < 100
    echoes["glm"].delta_delay_s = 0.0
    assert owner.ask().status_code == 200


def test_a_request_larger_than_a_whole_limit_is_no_matter_of_waiting(owned: Callable[[str], Owner]) -> None:
    owner = owned("tokens=60/min")

    refused = owner.ask(max_tokens=150)

    assert refused.status_code == 400
    error = refused.json()["error"]
    # Which of three fields it is, is not known there.
    assert (error["code"], error["param"]) == ("exceeds_rate_limit", None)
    assert "max_completion_tokens, max_output_tokens in a response, or max_tokens in a message" in error["message"]
    assert "60 tokens a minute" in error["message"]
    assert "retry-after" not in refused.headers
    assert owner.ask(max_tokens=3).status_code == 200


def test_pictures_and_their_pixels_are_limited(owned: Callable[[str], Owner]) -> None:
    png = io.BytesIO()
    Image.new("RGB", (60, 60), "red").save(png, "PNG")
    picture = data_url(png.getvalue())
    content = [{"type": "text", "text": "这是什么？"}, {"type": "image_url", "image_url": {"url": picture}}]
    chat = {"model": "glowl", "messages": [{"role": "user", "content": content}]}
    owner = owned("pictures=2/min, megapixels=1/min")

    answers = [owner.http.post("/v1/chat/completions", json=chat) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["x-ratelimit-remaining-pictures"] == "0"
    assert answers[1].headers["x-ratelimit-limit-megapixels"] == "1"
    assert "2 pictures a minute" in answers[2].json()["error"]["message"]
    assert [entry[2:4] for entry in owner.ledger()] == [[b"1", b"4"]] * 2
    assert owner.ask().status_code == 200


def test_so_many_requests_at_a_time(owned: Callable[[str], Owner], echoes: dict[str, EchoEngine]) -> None:
    owner = owned("concurrent=1")
    echoes["glm"].delta_delay_s = 0.2
    with owner.http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as first:
        refused = owner.ask()
        assert first.status_code == 200
        first.read()

    assert refused.status_code == 429
    assert "1 requests at a time" in refused.json()["error"]["message"]
    # The end of an answer is not sent before its place is free.
    echoes["glm"].delta_delay_s = 0.0
    assert [owner.ask(stream=number % 2 == 0).status_code for number in range(6)] == [200] * 6


def test_an_owner_s_own_number_of_unfinished_jobs(owned: Callable[[str], Owner]) -> None:
    owner = owned("jobs=1")
    first = owner.http.post("/v1/responses", json=DEEP)
    second = owner.http.post("/v1/responses", json=DEEP)

    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == "queue_full"
    owner.http.post(f"/v1/responses/{first.json()['id']}/cancel")
    assert owner.http.post("/v1/responses", json=DEEP).status_code == 200


def test_a_job_is_charged_when_it_is_accepted_and_given_back_when_it_ends(owned: Callable[[str], Owner]) -> None:
    owner = owned("tokens=10k")
    made = owner.http.post("/v1/responses", json=DEEP)
    state, _, _, _, reserved = owner.ledger()[0]
    assert state == b"held"
    assert int(reserved) > 300  # two engines, and 200 tokens of context in each

    owner.http.post(f"/v1/responses/{made.json()['id']}/cancel")

    assert owner.ledger()[0][0] == b"settled"


def test_a_failed_job_that_is_begun_again_is_charged_like_a_new_one(
    owned: Callable[[str], Owner], database: str
) -> None:
    # Given two failed jobs of an owner that may have one unfinished job
    owner = owned("requests=5, tokens=10k, jobs=1")
    first, second = [_failed(owner, database) for _ in range(2)]
    assert {entry[0] for entry in owner.ledger()} == {b"settled"}

    again = owner.http.post(f"/v1/jobs/{first}/retry")

    assert again.status_code == 200
    assert again.headers["x-ratelimit-remaining-requests"] == "2"
    [held] = [entry for entry in owner.ledger() if entry[0] == b"held"]
    assert int(held[4]) > 300
    # A second unfinished job is refused, and a job that has not failed is charged nothing.
    refused = owner.http.post(f"/v1/jobs/{second}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert owner.http.post(f"/v1/jobs/{first}/retry").json()["error"]["code"] == "job_not_failed"
    wait_until(lambda: [entry[0] for entry in owner.ledger()].count(b"held") == 1, "the end of refused requests")
    # Its end gives back what it did not use.
    owner.http.post(f"/v1/responses/{first}/cancel")
    assert owner.settled()
    # And over the limit of requests it is not begun.
    owner.owe("requests", 5)
    over = owner.http.post(f"/v1/jobs/{second}/retry")
    assert (over.status_code, over.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def _failed(owner: Owner, database: str) -> str:
    made: str = owner.http.post("/v1/responses", json=DEEP).json()["id"]

    async def run() -> None:
        async with Redis.from_url(database) as client:
            await fail(JobStore(client), made)

    asyncio.run(run())
    return made


def test_a_request_that_is_sent_again_counts_as_a_request_and_no_tokens(owned: Callable[[str], Owner]) -> None:
    owner = owned("requests=2, tokens=10k")
    answers = [owner.http.post("/v1/chat/completions", json=CHAT, headers={"idempotency-key": "k"}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert sorted(int(entry[4]) > 0 for entry in owner.settled()) == [False, True]


def test_polls_and_lists_are_not_counted(owned: Callable[[str], Owner]) -> None:
    owner = owned("requests=1")
    made = owner.http.post("/v1/responses", json=DEEP).json()["id"]
    answers = [owner.http.get(f"/v1/responses/{made}") for _ in range(5)]
    answers += [owner.http.get("/v1/models"), owner.http.post(f"/v1/responses/{made}/cancel")]
    assert {answer.status_code for answer in answers} == {200}


def test_keys_and_addresses_have_limits_beside_those_of_every_owner(
    echo_urls: dict[str, str], redis_process: RedisProcess
) -> None:
    # Given an api with two keys, behind a proxy that names the addresses of its clients.
    settings = Settings(
        REDIS_URL=redis_process.url.replace("db=0", "db=4"),
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        api_keys="one,two",
        limits="requests=100",
        key_limits="requests=3",
        address_limits="requests=4",
    )
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as http:
        sent = [
            http.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": key, "x-forwarded-for": address})
            for key, address in [
                *[("one", "203.0.113.7")] * 4,
                *[("two", "203.0.113.7")] * 2,
                ("two", "203.0.113.8"),
            ]
        ]
    server.stop()

    assert [answer.status_code for answer in sent] == [200, 200, 200, 429, 200, 429, 200]
    assert "limit of this key is reached: 3 requests" in sent[3].json()["error"]["message"]
    assert "limit of this address is reached: 4 requests" in sent[5].json()["error"]["message"]
    assert sent[0].headers["x-ratelimit-limit-requests"] == "3"


def test_a_caller_without_limits_costs_no_command_of_redis(http: httpx.Client, redis_process: RedisProcess) -> None:
    with redis.Redis.from_url(redis_process.url) as client, client.monitor() as monitor:
        answer = http.post("/v1/chat/completions", json=CHAT)
        client.echo("the end")
        seen = []
        for command in monitor.listen():
            seen.append(command["command"])
            if "the end" in command["command"]:
                break
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert not [command for command in seen if "meter:" in command]


async def test_without_redis_questions_are_answered_and_limits_count(echo_urls: dict[str, str]) -> None:
    settings = Settings(
        REDIS_URL="redis://127.0.0.1:1/0", insecure=True, limits="requests=2", glm_url=echo_urls["glm"], cache_bytes=0
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as http,
    ):
        answers = [await http.post("/v1/chat/completions", json=CHAT) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
