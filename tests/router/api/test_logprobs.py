"""Log probabilities through the unmodified openai client: asked for, left out, refused; and whose request it was."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from engines.base import InvalidRequestError
from engines.echo import EchoEngine
from router.auth.key_text import digest_of
from router.auth.records import configured_owner
from tests.support.servers import AppServer

SAID = "[echo glm] no pictures, question: 你好"
HELLO: Any = [{"role": "user", "content": "你好"}]


def joined(logprobs: Any) -> str:
    return b"".join(bytes(entry.bytes) for entry in logprobs).decode()


def test_a_chat_has_them_when_asked(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    completion = client.chat.completions.create(model="glowl", messages=HELLO, logprobs=True, top_logprobs=2)

    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert joined(logprobs.content) == SAID
    assert {entry.logprob for entry in logprobs.content} == {0.0}
    assert echoes["glm"].last_request is not None
    assert echoes["glm"].last_request.sampling.top_logprobs == 2


def test_a_chat_has_none_unless_asked(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="glowl", messages=HELLO, logprobs=False)

    assert completion.choices[0].logprobs is None


def test_a_chat_stream_has_them_with_the_text_they_are_of(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="glowl", messages=HELLO, logprobs=True, stream=True))

    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    said = [(choice.delta.content, joined(choice.logprobs.content or [])) for choice in choices if choice.logprobs]
    assert "".join(text or "" for text, _ in said) == SAID
    assert all(text == tokens for text, tokens in said)


@pytest.mark.parametrize("asked", [{"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}])
def test_a_response_has_them_when_asked_and_when_read_again(client: openai.OpenAI, asked: Any) -> None:
    response = client.responses.create(model="glowl", input="你好", **asked)

    again = client.responses.retrieve(response.id)
    for answer in (response, again):
        part: Any = answer.output[-1].content[0]  # type: ignore[union-attr,index]
        assert joined(part.logprobs) == part.text == SAID
        assert answer.top_logprobs == asked.get("top_logprobs", 0)


def test_a_response_stream_has_them_in_every_event_that_carries_text(client: openai.OpenAI) -> None:
    events: list[Any] = list(client.responses.create(model="glowl", input="你好", top_logprobs=1, stream=True))

    by_type: dict[str, list[Any]] = {}
    for event in events:
        by_type.setdefault(event.type, []).append(event)
    deltas = by_type["response.output_text.delta"]
    assert [event.delta for event in deltas] == ["".join(entry.token for entry in event.logprobs) for event in deltas]
    (done,) = by_type["response.output_text.done"]
    assert "".join(entry.token for entry in done.logprobs) == done.text == SAID
    assert joined(by_type["response.content_part.done"][0].part.logprobs) == SAID
    assert joined(by_type["response.output_item.done"][0].item.content[0].logprobs) == SAID
    assert joined(events[-1].response.output[-1].content[0].logprobs) == SAID


def test_nothing_of_them_is_kept_unless_asked(client: openai.OpenAI, http: httpx.Client) -> None:
    response = client.responses.create(model="glowl", input="你好", top_logprobs=0)

    assert response.output[-1].content[0].logprobs == []  # type: ignore[union-attr,index]
    job = http.get(f"/v1/jobs/{response.id}").json()
    assert "logprobs" not in job["final"]
    assert "logprobs" not in job["units"][0]["result"]


def test_an_engine_that_cannot_give_them_makes_a_400_that_names_the_field(
    client: openai.OpenAI, echoes: dict[str, EchoEngine]
) -> None:
    echoes["glm"].fail_with = InvalidRequestError("no log probabilities here", param="logprobs")

    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(model="glowl", messages=HELLO, logprobs=True)
    with pytest.raises(openai.BadRequestError) as stream:
        client.chat.completions.create(model="glowl", messages=HELLO, logprobs=True, stream=True)
    with pytest.raises(openai.BadRequestError) as response:
        client.responses.create(model="glowl", input="你好", top_logprobs=3)

    assert (chat.value.param, stream.value.param, response.value.param) == ("logprobs", "logprobs", "top_logprobs")


def test_the_engine_learns_whose_request_it_is(keyed_api: AppServer, echoes: dict[str, EchoEngine]) -> None:
    callers = []
    for key in ("alice", "bob"):
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "glowl", "messages": HELLO, "user": "somebody else"}
        assert httpx.post(keyed_api.url + "/v1/chat/completions", json=body, headers=headers).status_code == 200
        assert echoes["glm"].last_request is not None
        callers.append(echoes["glm"].last_request.caller)

    # The owner of the key, whatever the body claims.
    assert callers == [configured_owner(digest_of(key)) for key in ("alice", "bob")]
