"""What one read of the socket brings: one delta, and what is wrong with the answer after it."""

from __future__ import annotations

import orjson
import pytest

from engines.base import (
    GenerationFailedError,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    Usage,
)
from engines.http import answers
from engines.http.reading import NOTHING, AnswerReader
from engines.http.sse import DONE, to_event

HEAD = answers.CompletionHead("chatcmpl-1", 0, "m", include_usage=True)


def reader_of(**options: object) -> AnswerReader:
    request = GenerationRequest((Message("user", (TextPart("hi"),)),), SamplingParams(max_tokens=64))
    return AnswerReader(request, **({"max_chars": 1000, "is_foreign": False, "url": "http://engine"} | options))


def text(said: str) -> bytes:
    return to_event({"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": None}]})


def end(reason: str = "stop") -> bytes:
    return to_event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


async def test_what_arrives_together_is_one_delta():
    reader = reader_of()

    assert reader.feed(answers.to_first_event(HEAD) + text("a ") + text("black ") + text("cat")) == (True, None)

    assert reader.take().text == "a black cat"
    assert reader.take() is NOTHING
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    assert reader.feed(end() + to_event(usage) + b"data: " + DONE + b"\n\n") == (True, None)
    last = await reader.finish()
    assert (reader.is_done, last.finish_reason, last.usage) == (True, "stop", Usage(7, 3))


def test_log_probabilities_are_joined_as_their_texts_are():
    reader = reader_of()
    tokens = [TokenLogprob(word, -0.5, word.encode()) for word in ("a", " cat")]

    reader.feed(b"".join(answers.to_events(answers.Delta(text=each.token, logprobs=(each,)), HEAD) for each in tokens))

    shown = reader.take()
    assert (shown.text, shown.logprobs) == ("a cat", tuple(tokens))


def test_what_came_before_an_error_is_shown():
    reader = reader_of()

    _, failure = reader.feed(text("a cat") + b"data: " + orjson.dumps({"error": {"message": "too hot"}}) + b"\n\n")

    assert isinstance(failure, GenerationFailedError)
    assert reader.take().text == "a cat"


def test_words_after_the_end_are_none_of_the_answer():
    reader = reader_of()

    reader.feed(text("a cat") + end("length") + text(" and more") + end("stop") + text(" and more"))

    assert reader.take().text == "a cat"
    assert reader.finish_reason == "length"


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"stop_reason": "END"}, "END"),
        ({"matched_stop": "END"}, "END"),
        ({"stop_reason": None}, ""),
        ({"matched_stop": 151336}, ""),
        ({"stop_reason": "<|user|>"}, ""),
        ({"stop_reason": "END", "finish_reason": "length"}, ""),
    ],
    ids=["vllm", "sglang", "nothing", "a token", "not asked for", "the limit"],
)
async def test_a_server_says_which_stop_string_ended_the_answer(named: dict[str, object], told: str) -> None:
    sampling = SamplingParams(max_tokens=64, stop=("\n", "END"))
    request = GenerationRequest((Message("user", (TextPart("hi"),)),), sampling)
    reader = AnswerReader(request, max_chars=1000, is_foreign=True, url="http://engine")

    reader.feed(to_event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop", **named}]}))

    assert reader.take().text == "a"
    assert (await reader.finish()).stop_sequence == told


def test_more_than_can_be_an_answer_is_refused_although_it_came_at_once():
    _, failure = reader_of(max_chars=10).feed(text("12345") + text("678901"))

    assert isinstance(failure, GenerationFailedError)


def test_comments_are_no_events():
    assert reader_of().feed(b": ping\n\n") == (False, None)
