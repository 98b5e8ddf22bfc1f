"""Equal requests at once: one run of the engine, and for each caller an answer of its own."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock

import httpx
import pytest
import redis
from fastapi import FastAPI
from PIL import Image
from redis.asyncio import Redis as AsyncRedis

from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from router.app import create_app
from router.bootstrap import make_engines
from router.cache.flights import Flights
from router.cache.store import AnswerCache
from router.jobs.queue import JobQueue
from router.jobs.store import JobStore
from router.settings import Settings
from router.webhooks.deliver import Deliverer
from router.work import ticket
from router.work.context import Context
from tests.support.pictures import data_url, to_part
from tests.support.servers import AppServer, RedisProcess

# One run is expected: a busy machine must not look like a worker that died.
LEASE_S = 300.0


class GatedEcho(EchoEngine):
    """Says nothing until it may."""

    def __init__(self) -> None:
        super().__init__("glm")
        self.gate = threading.Event()

    async def _pause(self) -> None:
        while not self.gate.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.005)
        await super()._pause()


@pytest.fixture(scope="module")
def glm() -> GatedEcho:
    return GatedEcho()


@pytest.fixture(scope="module")
def owl2() -> EchoEngine:
    return EchoEngine("owl2")


@pytest.fixture(scope="module")
def database(redis_process: RedisProcess) -> str:
    """One of its own: jobs that other tests left would be run by the workers of these."""
    url = redis_process.url.replace("db=0", "db=6")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def redis_client(database: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(database) as client:
        yield client


@pytest.fixture(scope="module")
def settings(glm: GatedEcho, owl2: EchoEngine, database: str) -> Iterator[Settings]:
    folder = Path(tempfile.mkdtemp(prefix="glowl-f"))
    engines = [
        AppServer(create_engine_app(engine), uds=str(folder / name))
        for name, engine in {"glm": glm, "owl2": owl2}.items()
    ]
    urls = [engine.url for engine in engines]
    yield Settings(REDIS_URL=database, glm_url=urls[0], owl2_url=urls[1], cache_bytes=1_000_000, lease_s=LEASE_S)
    for engine in engines:
        engine.stop()


@pytest.fixture(scope="module")
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture(scope="module")
def api(app: FastAPI) -> Iterator[AppServer]:
    server = AppServer(app)
    yield server
    server.stop()


@pytest.fixture
def flights(app: FastAPI) -> Flights:
    flights: Flights = app.state.services.dispatcher.flights
    flights.num_joined = 0
    return flights


@pytest.fixture(autouse=True)
def _closed(glm: GatedEcho, owl2: EchoEngine) -> Iterator[None]:
    glm.gate.clear()
    glm.num_started = owl2.num_started = 0
    yield
    glm.gate.set()


@pytest.fixture
async def http(api: AppServer) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=api.url, timeout=300, trust_env=False, limits=limits) as client:
        yield client


@pytest.fixture
def question() -> str:
    return f"这是什么？{uuid.uuid4().hex}"


def ask(http: httpx.AsyncClient, content: Any, **fields: Any) -> asyncio.Task[httpx.Response]:
    body = {"model": "glowl", "messages": [{"role": "user", "content": content}], **fields}
    return asyncio.create_task(http.post("/v1/chat/completions", json=body))


async def until(is_true: Any) -> None:
    async with asyncio.timeout(300):
        while not is_true():  # noqa: ASYNC110 - what it looks at lives in another thread
            await asyncio.sleep(0.01)


def text_of(response: httpx.Response) -> str:
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


async def test_a_hundred_equal_calls_at_once_are_one_run(
    http: httpx.AsyncClient, glm: GatedEcho, flights: Flights, question: str
) -> None:
    tasks = [ask(http, question) for _ in range(100)]
    await until(lambda: flights.num_joined == 99)
    glm.gate.set()
    responses = await asyncio.gather(*tasks)

    assert glm.num_started == 1
    assert len({text_of(response) for response in responses}) == 1
    assert len({response.json()["id"] for response in responses}) == 100
    assert sorted(response.headers.get("x-glowl-cache", "") for response in responses) == [""] + ["joined"] * 99
    assert all(response.json()["usage"]["total_tokens"] > 0 for response in responses)


async def test_pictures_that_differ_in_one_pixel_are_two_runs(
    http: httpx.AsyncClient, glm: GatedEcho, flights: Flights, question: str
) -> None:
    image = Image.new("RGB", (8, 8), "white")
    other = image.copy()
    other.putpixel((7, 7), (255, 255, 254))

    def show(image: Image.Image) -> asyncio.Task[httpx.Response]:
        url = {"url": data_url(to_part(image))}
        return ask(http, [{"type": "image_url", "image_url": url}, {"type": "text", "text": question}])

    tasks = [show(image), show(other), show(image), show(other)]
    await until(lambda: flights.num_joined == 2)
    glm.gate.set()
    await asyncio.gather(*tasks)

    assert glm.num_started == 2


async def test_who_hangs_up_stops_nobody_and_the_last_one_ends_the_run(
    http: httpx.AsyncClient, glm: GatedEcho, flights: Flights, question: str
) -> None:
    first, second = ask(http, question), ask(http, question)
    await until(lambda: flights.num_joined == 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    third = ask(http, question)
    await until(lambda: flights.num_joined == 2)
    num_cancelled = glm.num_cancelled
    glm.gate.set()
    assert text_of(await second) == text_of(await third)
    assert (glm.num_started, glm.num_cancelled) == (1, num_cancelled)

    glm.gate.clear()
    pair = [ask(http, question + "？") for _ in range(2)]
    await until(lambda: flights.num_joined == 3 and glm.num_started == 2)
    for task in pair:
        task.cancel()
    await until(lambda: glm.num_running == 0 and glm.num_cancelled == num_cancelled + 1)


async def test_streams_and_stored_answers_share_a_run_and_nothing_else(
    http: httpx.AsyncClient, glm: GatedEcho, flights: Flights, question: str
) -> None:
    streamed = ask(http, question, stream=True)
    plain = ask(http, question)
    stored = asyncio.create_task(http.post("/v1/responses", json={"model": "glowl", "input": question}))
    await until(lambda: flights.num_joined == 2)
    glm.gate.set()

    text = text_of(await plain)
    assert glm.num_started == 1
    assert (await streamed).text.count('"delta"') >= 3
    response = (await stored).raise_for_status()
    assert response.json()["output"][-1]["content"][0]["text"] == text
    assert (await http.get(f"/v1/responses/{response.json()['id']}")).json() == response.json()


async def test_each_of_a_shared_run_tells_its_own_receiver(
    http: httpx.AsyncClient, glm: GatedEcho, flights: Flights, question: str, redis_client: redis.Redis
) -> None:
    # Given equal questions, each with another webhook
    urls = [f"https://example.com/{uuid.uuid4().hex}" for _ in range(3)]
    tasks = [ask(http, question, metadata={"webhook_url": url}) for url in urls]
    tasks.append(ask(http, question))
    await until(lambda: flights.num_joined == 3)
    glm.gate.set()
    ids = [response.json()["hybrid"]["response_id"] for response in await asyncio.gather(*tasks)]

    # Then one run, one event for each receiver, about the response that named it
    assert glm.num_started == 1
    deliveries = [redis_client.hgetall(key) for key in redis_client.scan_iter("glowl:delivery:*")]
    told = {each[b"url"].decode(): json.loads(each[b"body"])["data"]["id"] for each in deliveries}
    assert {url: told.get(url) for url in urls} == dict(zip(urls, ids, strict=False))
    assert ids[3] is None


@pytest.mark.parametrize("fields", [{"temperature": 1}, {"hybrid": {"cache": False}}])
async def test_who_wants_an_answer_of_its_own_has_a_run_of_its_own(
    http: httpx.AsyncClient, glm: GatedEcho, flights: Flights, question: str, fields: dict[str, Any]
) -> None:
    tasks = [ask(http, question, **fields) for _ in range(2)]
    await until(lambda: glm.num_started == 2)
    glm.gate.set()
    await asyncio.gather(*tasks)

    assert flights.num_joined == 0


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Does what waits in the queues of the engines, once."""
    redis = AsyncRedis.from_url(settings.redis_url)
    engines = make_engines(settings)
    queue = cast("JobQueue", AsyncMock())  # its tickets are not needed: the queues are looked at
    cache = AnswerCache(redis, max_bytes=settings.cache_bytes, ttl_s=60)
    context = Context(JobStore(redis, lease_s=LEASE_S), queue, engines, cast("Deliverer", None), cache=cache)

    async def work() -> None:
        for queue in ("glm", "owl2", "light"):
            await ticket.work(context, queue)

    yield work
    for engine in engines.values():
        await engine.aclose()
    await context.leftovers.aclose()
    await redis.aclose()


async def test_equal_jobs_at_once_are_one_run_of_each_engine_and_the_next_is_a_hit(
    http: httpx.AsyncClient,
    glm: GatedEcho,
    owl2: EchoEngine,
    redis_client: redis.Redis,
    worker: Callable[[], Awaitable[None]],
) -> None:
    question = f"What is {uuid.uuid4().hex}?"

    def respond(**fields: Any) -> asyncio.Task[httpx.Response]:
        body = {"model": "glowl", "input": question, "hybrid": {"route": "deep"}, **fields}
        return asyncio.create_task(http.post("/v1/responses", json=body))

    tasks = [respond(metadata={"n": str(number)}, background=number % 3 == 0) for number in range(30)]
    await until(lambda: redis_client.hlen("glowl:unfinished") and num_following(redis_client) == 29)
    glm.gate.set()
    while not all(task.done() for task in tasks):
        await worker()
    responses = [(await task).raise_for_status() for task in tasks]
    bodies = [
        (await http.get(f"/v1/responses/{response.json()['id']}")).raise_for_status().json() for response in responses
    ]

    assert (glm.num_started, owl2.num_started) == (1, 1)
    assert {body["status"] for body in bodies} == {"completed"}
    assert len({body["id"] for body in bodies}) == 30
    assert len({body["output"][-1]["content"][0]["text"] for body in bodies}) == 1
    assert sorted(body["hybrid"]["cache"]["status"] for body in bodies) == ["joined"] * 29 + ["miss"]
    assert {body["metadata"]["n"] for body in bodies} == {str(number) for number in range(30)}

    hit = (await respond()).raise_for_status()
    assert hit.headers["x-glowl-cache"] == "hit"
    assert hit.json()["output"] != []
    assert hit.json()["hybrid"]["draft"]["text"] == bodies[0]["hybrid"]["draft"]["text"]
    assert hit.json()["usage"] == bodies[0]["usage"]
    assert (glm.num_started, owl2.num_started) == (1, 1)


def num_following(client: redis.Redis) -> int:
    return sum(client.zcard(key) for key in client.keys("glowl:followers:*"))
