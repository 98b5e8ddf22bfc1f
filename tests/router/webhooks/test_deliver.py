"""Attempts against a real receiver: what is posted, what each answer means, and who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from router.bootstrap import make_redis
from router.fetch import SafeFetcher
from router.jobs.queue import WEBHOOKS
from router.leftovers import end_tasks
from router.settings import Settings
from router.webhooks.backoff import Backoff
from router.webhooks.deliver import MAX_PER_HOST, MAX_PER_LINE, Deliverer
from router.webhooks.records import EVENT_TYPES, Delivery
from router.webhooks.signing import sign
from router.webhooks.store import WebhookStore
from router.webhooks.sweeper import sweep_forever, sweep_once
from router.work.context import Context
from router.work.ticket import work
from tests.support.clock import Clock

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Answers with what is next in ``answers``, 204 when there is nothing; keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[web.Response | Answer] = []
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.num_open = 0
        self.most_open = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.received.append(({key.lower(): value for key, value in request.headers.items()}, await request.read()))
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            answer = self.answers.pop(0) if self.answers else web.Response(status=204)
            return answer if isinstance(answer, web.Response) else await answer(request)
        finally:
            self.num_open -= 1


class Queue:
    """Keeps the tickets, which nobody takes."""

    def __init__(self) -> None:
        self.sent = 0
        self.has_sent = asyncio.Event()

    async def num_waiting(self, queue: str) -> int:
        assert queue == WEBHOOKS
        return self.sent

    async def send_tickets(self, numbers: dict[str, int]) -> None:
        self.sent += numbers[WEBHOOKS]
        self.has_sent.set()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def url(receiver: Receiver) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/hook?token=hush"))


@pytest.fixture
async def store(redis_url: str, clock: Clock) -> AsyncIterator[WebhookStore]:
    redis = make_redis(Settings(REDIS_URL=redis_url))  # whose commands wait for a connection
    yield WebhookStore(redis, clock=clock)
    await redis.aclose()


def make_deliverer(store: WebhookStore, clock: Clock, **changes: Any) -> Deliverer:
    settings = Settings(allow_private_urls=True, fetch_timeout_s=0.3, **changes.pop("settings", {}))
    return Deliverer(
        store,
        SafeFetcher(settings.model_copy(update=changes.pop("fetch", {}))),
        Backoff((5.0, 300.0, 1800.0), random_between=lambda low, high: 1.0),
        timeout_s=20,
        clock=clock,
    )


@pytest.fixture
async def deliverer(store: WebhookStore, clock: Clock) -> AsyncIterator[Deliverer]:
    deliverer = make_deliverer(store, clock, fetch={"fetch_timeout_s": 60.0})
    yield deliverer
    await deliverer.drain(5)


async def plan(store: WebhookStore, url: str, name: str = "resp_1", owner: str = "local") -> str:
    await store.emit(owner, "response.completed", {"id": name}, url=url)
    page = await store.list_deliveries(owner, limit=100)
    assert page is not None
    return next(each.id for each in page[0] if name in each.event_id or each.url == url)


async def deliver_next(store: WebhookStore, deliverer: Deliverer) -> str | None:
    """Make the attempt whose turn it is."""
    claim = await store.take_next(lease_s=25)
    assert claim is not None
    return await deliverer.deliver(claim)


async def look(store: WebhookStore, delivery_id: str) -> Delivery:
    delivery = await store.get_delivery("local", delivery_id)
    assert delivery is not None
    return delivery


async def test_an_attempt_is_signed_afresh_over_the_same_id_and_body(
    store: WebhookStore, deliverer: Deliverer, receiver: Receiver, url: str, clock: Clock
) -> None:
    receiver.answers = [web.Response(status=500), web.Response(status=503)]
    due = await plan(store, url)
    for wait in (6, 301, 1801):
        await deliver_next(store, deliverer)
        clock.now += wait

    assert (await look(store, due)).state == "succeeded"
    [secret] = await store.request_secrets("local")
    headers, bodies = zip(*receiver.received, strict=True)
    assert len(set(bodies)) == 1
    assert len({each["webhook-id"] for each in headers}) == 1
    assert [int(each["webhook-timestamp"]) for each in headers] == [1_000_000, 1_000_006, 1_000_307]
    for each in headers:
        id_, at = each["webhook-id"], int(each["webhook-timestamp"])
        assert each["webhook-signature"] == sign(id_, at, bodies[0], secret)
        assert each["content-type"] == "application/json"


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_any_success_ends_it(
    store: WebhookStore, deliverer: Deliverer, receiver: Receiver, url: str, status: int
) -> None:
    receiver.answers = [web.Response(status=status)]
    await plan(store, url)
    assert await deliver_next(store, deliverer) == "succeeded"


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 429, 500, 503])
async def test_anything_else_is_tried_again_and_redirects_are_not_followed(
    store: WebhookStore, deliverer: Deliverer, receiver: Receiver, url: str, clock: Clock, status: int
) -> None:
    receiver.answers = [web.Response(status=status, headers={"Location": "/elsewhere"})]
    due = await plan(store, url)

    assert await deliver_next(store, deliverer) == "pending"

    delivery = await look(store, due)
    assert delivery.next_attempt_at == clock.now + 5
    assert delivery.attempts[0].status_code == status
    assert delivery.attempts[0].error == f"the receiver answered {status}"
    assert len(receiver.received) == 1


@pytest.mark.parametrize(("status", "expected"), [(429, 90), (503, 90), (500, 5)])
async def test_a_busy_receiver_is_left_alone_for_as_long_as_it_asks(
    store: WebhookStore, deliverer: Deliverer, receiver: Receiver, url: str, clock: Clock, status: int, expected: int
) -> None:
    receiver.answers = [web.Response(status=status, headers={"Retry-After": "90"})]
    due = await plan(store, url)
    await deliver_next(store, deliverer)
    assert (await look(store, due)).next_attempt_at == clock.now + expected


async def test_a_receiver_that_is_gone_is_not_tried_again(
    store: WebhookStore, deliverer: Deliverer, receiver: Receiver, url: str
) -> None:
    created = await store.create_endpoint("local", name="n", url=url, event_types=EVENT_TYPES)
    assert created is not None
    receiver.answers = [web.Response(status=410)]
    await store.emit("local", "response.completed", {"id": "resp_1"})

    assert await deliver_next(store, deliverer) == "failed"

    endpoint = await store.get_endpoint("local", created[0].id)
    assert endpoint is not None
    assert endpoint.status == "disabled"
    id_, at = receiver.received[0][0]["webhook-id"], int(receiver.received[0][0]["webhook-timestamp"])
    assert receiver.received[0][0]["webhook-signature"] == sign(id_, at, receiver.received[0][1], created[1])


async def test_a_receiver_that_does_not_answer_in_time_counts_as_failed(
    store: WebhookStore, receiver: Receiver, url: str, clock: Clock
) -> None:
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    receiver.answers = [hang]
    deliverer = make_deliverer(store, clock)
    due = await plan(store, url)

    assert await deliver_next(store, deliverer) == "pending"

    released.set()
    [attempt] = (await look(store, due)).attempts
    assert attempt.status_code is None
    assert attempt.error is not None
    assert "0.3 seconds" in attempt.error
    assert attempt.error_zh is not None
    assert "0.3 秒" in attempt.error_zh
    await deliverer.drain(1)


async def test_an_endless_answer_is_not_read(
    store: WebhookStore, deliverer: Deliverer, receiver: Receiver, url: str
) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    receiver.answers = [flood]
    await plan(store, url)
    assert await deliver_next(store, deliverer) == "succeeded"


async def test_an_address_of_this_machine_is_refused_unless_allowed(
    store: WebhookStore, receiver: Receiver, url: str, clock: Clock
) -> None:
    deliverer = make_deliverer(store, clock, fetch={"allow_private_urls": False})
    due = await plan(store, url)
    assert await deliver_next(store, deliverer) == "pending"
    assert receiver.received == []
    assert (await look(store, due)).attempts[0].error == "the URL leads to an address that is not posted to"
    await deliverer.drain(1)


async def test_the_log_names_the_host_and_the_reason_but_no_secret_and_no_token(
    store: WebhookStore,
    deliverer: Deliverer,
    receiver: Receiver,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.answers = [web.Response(status=500)]
    due = await plan(store, url)
    with caplog.at_level(logging.DEBUG):
        await deliver_next(store, deliverer)

    [secret] = await store.request_secrets("local")
    ours = [record for record in caplog.records if record.name != "aiohttp.access"]  # that is the receiver's own log
    [record] = [record for record in ours if record.name == "router.webhooks.deliver"]
    assert record.levelname == "WARNING"
    for said in (due, "response.completed", "http://127.0.0.1", "attempt 1", "answered 500", "next in 5 s"):
        assert said in record.getMessage()
    for hushed in (secret, secret[6:], "hush", "v1,"):
        assert all(hushed not in each.getMessage() for each in ours)


async def test_a_delivery_that_is_killed_between_post_and_record_comes_again_with_the_same_id(
    store: WebhookStore, receiver: Receiver, url: str, clock: Clock
) -> None:
    has_post, never = asyncio.Event(), asyncio.Event()

    async def answer_never(_: web.Request) -> web.StreamResponse:
        has_post.set()
        await never.wait()
        return web.Response()

    receiver.answers = [answer_never]
    await plan(store, url)
    killed = make_deliverer(store, clock, fetch={"fetch_timeout_s": 20.0})
    killed.wake()
    await has_post.wait()
    await killed.drain(0)  # cancelled in the middle, as a kill would
    never.set()

    clock.now += 25.1
    other = make_deliverer(store, clock)
    assert await deliver_next(store, other) == "succeeded"

    first, second = (headers["webhook-id"] for headers, _ in receiver.received)
    assert first == second
    await other.drain(1)


class Hanging(Receiver):
    """Says nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.answers.append(self._hang)
        return await super().handle(request)

    async def _hang(self, _: web.Request) -> web.StreamResponse:
        await self.released.wait()
        return web.Response()


@contextlib.asynccontextmanager
async def serving(receiver: Receiver, host: str) -> AsyncIterator[str]:
    """Serve a receiver on a loopback address of its own: another host to whoever posts."""
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.handle)
    async with TestServer(app, host=host) as server:
        yield f"http://{host}:{server.port}"


async def test_a_host_that_hangs_holds_only_its_own_line_whatever_its_urls(
    store: WebhookStore, deliverer: Deliverer
) -> None:
    silent, prompt = Hanging(), Receiver()
    async with serving(silent, "127.0.0.2") as slow_url, serving(prompt, "127.0.0.3") as url:
        for number in range(40):
            await store.emit("local", "response.completed", {"id": f"slow_{number}"}, url=f"{slow_url}/{number}")
        deliverer.wake()
        await _until(lambda: silent.num_open == MAX_PER_LINE)

        # The same owner's other receiver and another owner's are told while all those hang
        for owner in ("local", "bob"):
            await store.emit(owner, "response.completed", {"id": "resp_1"}, url=f"{url}/{owner}")
        deliverer.wake()
        await _until(lambda: len(prompt.received) == 2)
        assert len(silent.received) == silent.most_open == MAX_PER_LINE

        silent.released.set()
        await _until(lambda: len(silent.received) == 40)
        await deliverer.drain(60)
        assert silent.most_open == MAX_PER_LINE
    assert await store.is_due() is False


async def test_owners_whose_receivers_all_hang_leave_places_for_others(
    store: WebhookStore, deliverer: Deliverer
) -> None:
    silent, prompt = [Hanging() for _ in range(10)], Receiver()
    async with contextlib.AsyncExitStack() as servers:
        for place, each in enumerate(silent):
            url = await servers.enter_async_context(serving(each, f"127.0.1.{place + 1}"))
            for number in range(12):
                owner = f"owner{number % 10}"
                await store.emit(owner, "response.completed", {"id": f"resp_{place}_{number}"}, url=f"{url}/{number}")
        deliverer.wake()
        await _until(lambda: sum(each.num_open for each in silent) >= 60)

        url = await servers.enter_async_context(serving(prompt, "127.0.0.3"))
        await store.emit("another", "response.completed", {"id": "resp"}, url=url)
        deliverer.wake()
        await _until(lambda: prompt.received)

        assert max(each.most_open for each in silent) <= MAX_PER_HOST
        for each in silent:
            each.released.set()
        await _until(lambda: sum(len(each.received) for each in silent) == 120)
        await deliverer.drain(60)


async def test_a_ticket_returns_before_the_receiver_answers(
    store: WebhookStore, deliverer: Deliverer, receiver: Receiver, url: str
) -> None:
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    receiver.answers = [hang]
    due = await plan(store, url)
    context = Context(cast("Any", None), cast("Any", None), {}, deliverer)

    await work(context, WEBHOOKS)  # would hang here

    await _until(lambda: receiver.received)
    assert (await look(store, due)).state == "in_progress"
    released.set()
    await deliverer.drain(60)
    assert (await look(store, due)).state == "succeeded"


async def test_a_ticket_too_many_or_a_redis_that_is_away_harms_nothing(
    store: WebhookStore,
    deliverer: Deliverer,
    receiver: Receiver,
    url: str,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    deliverer.wake()
    deliverer.wake()
    await plan(store, url)
    deliverer.wake()
    await _until(lambda: receiver.received)
    deliverer.wake()
    await deliverer.drain(5)
    assert len(receiver.received) == 1

    away = Redis.from_url("redis://127.0.0.1:1/0")
    lonely = make_deliverer(WebhookStore(away), clock)
    lonely.wake()
    await _until(lambda: "does not answer" in caplog.text)
    await lonely.drain(20)
    await away.aclose()


async def test_one_ticket_is_sent_by_however_many_sweepers_while_nobody_takes_it(store: WebhookStore, url: str) -> None:
    queue = Queue()
    assert await sweep_once(store, cast("Any", queue)) is False
    for number in range(3):
        await store.emit("local", "response.completed", {"id": f"resp_{number}"}, url=url)
    sweepers = [asyncio.create_task(sweep_forever(store, cast("Any", queue))) for _ in range(2)]
    await asyncio.wait_for(queue.has_sent.wait(), 60)
    await end_tasks(*sweepers)

    assert await sweep_once(store, cast("Any", queue)) is False
    assert queue.sent == 1


async def _until(is_true: Callable[[], Any]) -> None:
    async with asyncio.timeout(300):
        while not is_true():  # noqa: ASYNC110  the receiver has no event for each thing waited for
            await asyncio.sleep(0.005)
