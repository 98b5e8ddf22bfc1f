"""A caller's server is told how its jobs ended, whatever it, the worker or its own manners do to prevent it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import openai
import orjson
import pytest

from tests.journeys.conftest import Stack
from tests.support.receiver import Receiver
from tests.support.servers import wait_until

pytestmark = pytest.mark.e2e

QUESTION = "Which of the two is larger, and how do you know?"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def ask(stack: Stack, **metadata: str) -> str:
    return stack.client.responses.create(model="glowl", input=QUESTION, background=True, metadata=metadata).id


def delivery_of(stack: Stack, event_id: str, *states: str) -> dict[str, Any]:
    """Wait for an event's one delivery to be in one of the states."""

    def look() -> dict[str, Any] | None:
        with stack.http as http:
            found = [each for each in http.get("/v1/webhook_deliveries").json()["data"] if each["event_id"] == event_id]
        assert len(found) == 1
        return found[0] if found[0]["status"] in states else None

    delivery: dict[str, Any] = wait_until(look, f"the delivery of {event_id} to be {states}")
    return delivery


def test_a_receiver_that_fails_twice_is_told_until_it_has_it_and_then_no_more(stack: Stack, receiver: Receiver) -> None:
    receiver.answers = [500, 302]
    job = ask(stack, webhook_url=receiver.url)

    posts = [receiver.next() for _ in range(3)]

    assert len({headers["webhook-id"] for headers, _ in posts}) == 1
    assert len({body for _, body in posts}) == 1
    with stack.http as http:
        secret = http.post("/v1/webhook_secret").json()["signing_secret"]
    for headers, body in posts:
        event = stack.client.webhooks.unwrap(body, headers, secret=secret)
        assert (event.type, event.data.id) == ("response.completed", job)  # type: ignore[union-attr]
        assert event.id == headers["webhook-id"]
    delivery = delivery_of(stack, posts[0][0]["webhook-id"], "succeeded")
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [500, 302, 204]
    assert receiver.received.empty()


def test_an_endpoint_is_told_how_every_job_ended_until_it_says_that_it_is_gone(
    stack: Stack, receiver: Receiver
) -> None:
    endpoint = stack.client.webhooks.create(
        name="all", url=receiver.url, event_types=["response.completed", "response.cancelled"]
    )
    stack.engines["owl2"].delta_delay_s = 0.5
    slow = ask(stack)
    stack.client.responses.cancel(slow)
    headers, body = receiver.next()
    event = stack.client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
    assert (event.type, event.data.id) == ("response.cancelled", slow)  # type: ignore[union-attr]
    stack.engines["owl2"].delta_delay_s = 0.0

    receiver.answers = [410]
    done = ask(stack)
    headers, body = receiver.next()
    assert orjson.loads(body)["data"]["id"] == done

    assert delivery_of(stack, headers["webhook-id"], "failed")["failure"] == "gone"
    assert stack.client.webhooks.retrieve(endpoint.id).status == "disabled"  # type: ignore[attr-defined]
    stack.wait_for(ask(stack), "completed")
    assert receiver.received.empty()

    # Its owner says that it is back, and has the event sent again.
    with stack.http as http:
        http.post(f"/v1/webhook_endpoints/{endpoint.id}", json={"status": "enabled"})
        [missed] = [
            each
            for each in http.get(f"/v1/webhook_endpoints/{endpoint.id}/deliveries").json()["data"]
            if each["failure"] == "gone"
        ]
        http.post(f"/v1/webhook_deliveries/{missed['id']}/redeliver")
    again, body_again = receiver.next()
    assert (again["webhook-id"], body_again) == (headers["webhook-id"], body)
    delivery_of(stack, again["webhook-id"], "succeeded")
    stack.client.webhooks.delete(endpoint.id)


def test_a_worker_killed_between_post_and_record_makes_the_event_come_again_under_the_same_id(
    stack: Stack, receiver: Receiver
) -> None:
    released = threading.Event()
    receiver.answers = [released]
    job = ask(stack, webhook_url=receiver.url)
    first, body = receiver.next()

    stack.worker.kill()
    released.set()
    # The job itself may be forgotten meanwhile: its event is on its way.
    stack.client.responses.delete(job)
    stack.restart_worker()

    second, body_again = receiver.next()
    assert (second["webhook-id"], body_again) == (first["webhook-id"], body)
    delivery = delivery_of(stack, first["webhook-id"], "succeeded")
    assert [attempt["error"] is None for attempt in delivery["attempts"]] == [False, True]
    with pytest.raises(openai.NotFoundError):
        stack.client.responses.retrieve(job)


def test_deliveries_that_wait_survive_a_restart_of_redis(stack: Stack, receiver: Receiver) -> None:
    os.kill(stack.worker.child.pid, signal.SIGSTOP)  # nobody delivers
    try:
        response = ask(stack, webhook_url=receiver.url)
        stack.client.responses.cancel(response)
        with stack.http as http:
            wait_until(
                lambda: http.get("/v1/webhook_deliveries").json()["data"][0]["status"] == "pending", "the delivery"
            )
        # An answer means it is in redis; its file is written every second.
        stack.redis.stop()
        stack.redis.start()
    finally:
        os.kill(stack.worker.child.pid, signal.SIGCONT)
    _, body = receiver.next()
    assert orjson.loads(body)["data"] == {"id": response}
