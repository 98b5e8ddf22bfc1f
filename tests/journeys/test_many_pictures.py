"""Ten pictures where Owl2 takes four: looked at in groups, answered as one, the same whichever way it is read."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from engines.base import Delta, GenerationRequest, InvalidImageError
from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from tests.journeys.conftest import Stack, picture
from tests.support.receiver import Receiver
from tests.support.servers import AppServer, wait_until

pytestmark = pytest.mark.e2e

DRAFT_PATIENCE_S = 300.0

QUESTION = "In which pictures is an owl?"
PICTURES = [picture("red", (10 + number, 8)) for number in range(1, 11)]
SIXTH = hashlib.sha256(base64.b64decode(PICTURES[5].partition(",")[2])).hexdigest()
MISSING = "Pictures 5-7 could not be analysed."


class Picky(EchoEngine):
    """Takes four pictures at a time, and perhaps not every one; takes its time for what it says without any.

    Attributes:
        refused: hash of a picture that it fails at.
        reduce_delay_s: before every word of an answer to a request without pictures.
        seen: how many pictures each request had.
    """

    refused = ""
    reduce_delay_s = 0.0

    def __init__(self) -> None:
        super().__init__("owl2", max_images=4)
        self.seen: list[int] = []

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.seen.append(len(request.images))
        self.delta_delay_s = 0.0 if request.images else self.reduce_delay_s
        if self.refused in [image.sha256 for image in request.images]:
            raise InvalidImageError("cut off")
        async for delta in super().stream(request):
            yield delta


@pytest.fixture(scope="module")
def picky(stack: Stack) -> Picky:
    """Owl2's place is taken by an engine that takes fewer pictures."""
    stack.stop_engine("owl2")
    stack.wait_for_health(owl2="down")
    engine = Picky()
    stack.engines["owl2"] = engine
    stack.servers["owl2"] = AppServer(create_engine_app(engine), uds=stack.servers["owl2"].uds)
    stack.wait_for_health(owl2="up")
    return engine


@pytest.fixture(params=["", SIXTH], ids=["all-fine", "one-group-fails"])
def refused(picky: Picky, request: pytest.FixtureRequest) -> Iterator[str]:
    picky.refused = request.param
    yield request.param
    picky.refused = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def turn(text: str = QUESTION) -> Any:
    return [
        {
            "role": "user",
            "content": [
                *({"type": "input_image", "image_url": url, "detail": "auto"} for url in PICTURES),
                {"type": "input_text", "text": text},
            ],
        }
    ]


def sizes(*numbers: int) -> str:
    return ", ".join(f"{10 + number}x8 png" for number in numbers)


def test_stream_poll_webhook_and_chat_give_the_same_answer_of_all_groups_in_order(
    stack: Stack, refused: str, receiver: Receiver
) -> None:
    # When the same question is asked in every way there is
    with stack.client.responses.stream(model="glowl", input=turn(), metadata={"webhook_url": receiver.url}) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    receiver.next()
    polled = stack.client.responses.retrieve(streamed.id)
    content = [
        *({"type": "image_url", "image_url": {"url": url}} for url in PICTURES),
        {"type": "text", "text": QUESTION},
    ]
    messages: Any = [{"role": "user", "content": content}]
    chat = stack.client.chat.completions.create(model="glowl", messages=messages)
    chunks = stack.client.chat.completions.create(model="glowl", messages=messages, stream=True)
    pieces = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    # Then the answer is made of what each group found, in the order of the pictures, and names the one that failed
    text = polled.output_text
    found = [
        f"Pictures 1-4: [echo owl2] 4 pictures ({sizes(1, 2, 3, 4)})",
        MISSING if refused else f"Pictures 5-7: [echo owl2] 3 pictures ({sizes(5, 6, 7)})",
        f"Pictures 8-10: [echo owl2] 3 pictures ({sizes(8, 9, 10)})",
    ]
    places = [text.index(finding) for finding in found]
    assert text.startswith("[echo owl2] no pictures, question: A question about 10 pictures")
    assert places == sorted(places)
    assert (MISSING in text) == bool(refused)
    hybrid: Any = polled.model_extra["hybrid"]  # type: ignore[index]
    assert [group["pictures"] for group in hybrid["groups"]] == [[1, 4], [5, 7], [8, 10]]
    assert [group["state"] == "failed" for group in hybrid["groups"]] == [False, bool(refused), False]
    assert [sentence.split(" (")[0] for sentence in hybrid["degraded"]] == (
        ["pictures 5-7 could not be analysed by owl2"] if refused else []
    )
    assert hybrid["draft"]["text"].startswith("[echo glm] 10 pictures")

    # And it is the same to the byte
    final_id = polled.output[-1].id
    deltas = [event for event in events if event.type == "response.output_text.delta" and event.item_id == final_id]
    assert deltas  # what arrives together is told together
    assert "".join(event.delta for event in deltas) == streamed.output_text == text
    assert chat.choices[0].message.content == pieces == text


def test_a_worker_that_dies_while_the_answer_is_written_costs_that_and_no_group(stack: Stack, picky: Picky) -> None:
    # Given a stream whose final answer has begun
    picky.seen.clear()
    picky.reduce_delay_s = 0.1
    events: list[Any] = []

    def read() -> None:
        events.extend(stack.client.responses.create(model="glowl", input=turn(), stream=True))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: 0 in picky.seen, "the answer to begin")

    # When its worker is killed and another one starts
    stack.worker.kill()
    wait_until(lambda: picky.num_running == 0, "the engine to notice")
    picky.reduce_delay_s = 0.0
    stack.restart_worker()
    reader.join(300)

    # Then the answer is written again, the groups are not looked at again, and the stream says nothing twice
    assert events[-1].type == "response.completed"
    assert sorted(picky.seen) == [0, 0, 3, 3, 4]
    *_, final = events[-1].response.output
    deltas = [event for event in events if event.type == "response.output_text.delta" and event.item_id == final.id]
    polled = stack.client.responses.retrieve(events[-1].response.id)
    assert "".join(event.delta for event in deltas) == final.content[0].text == polled.output_text
    with stack.http as http:
        units = {unit["name"]: unit["runs"] for unit in http.get(f"/v1/jobs/{polled.id}").json()["units"]}
    assert units == {"draft": 1, "deep-1": 1, "deep-2": 1, "deep-3": 1, "merge": 2}


def test_a_chinese_answer_is_composed_from_the_findings_of_all_groups(stack: Stack, refused: str) -> None:
    response = stack.client.responses.create(model="glowl", input=turn("哪几张图里有猫头鹰？"))

    hybrid: Any = response.model_extra["hybrid"]  # type: ignore[index]
    assert hybrid["merge"] == "compose"
    assert response.output_text.startswith("[echo glm] 10 pictures")
    assert "第 1-4 张图片：[echo owl2] 4 pictures" in response.output_text
    assert ("第 5-7 张图片未能分析。" in response.output_text) == bool(refused)
