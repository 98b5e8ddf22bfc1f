"""The engine client against servers that misbehave, and against servers of another make."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import orjson
import pytest
from aiohttp import web

from engines.base import (
    ContextLengthError,
    EngineError,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    Usage,
    generate,
)
from engines.echo import EchoEngine
from engines.http import client as http_client
from engines.http import requests
from engines.http.address import split_urls
from engines.http.client import EngineClient
from engines.http.server import listening
from engines.logs import JsonLines
from engines.origin import Origin
from tests.support.vllm_server import serving

HI = GenerationRequest((Message("user", (TextPart("hi"),)),))
Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


def event(payload: object) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def text_event(text: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]})


@contextlib.asynccontextmanager
async def replying(reply: Reply) -> AsyncIterator[str]:
    """Answer one chat request per connection with whatever ``reply`` writes, byte for byte; yield the URL."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        handlers.add(task)
        task.add_done_callback(handlers.discard)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            await reply(writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def writing(*pieces: bytes, then_hang: bool = False) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if then_hang:
            await asyncio.Event().wait()

    return reply


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., EngineClient]]:
    clients: list[EngineClient] = []

    def make(url: str, **options: object) -> EngineClient:
        clients.append(EngineClient(url, **({"timeout_s": 10.0, "model": "m"} | options)))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


# --- broken servers -------------------------------------------------------------------------------------------------


async def test_an_answer_sent_byte_by_byte_with_comments_between_is_whole(client_of):
    answer = b": ping\r\n\r\n" + text_event("猫") + b": ping\n\n" + text_event("🦉", "length") + b"data: [DONE]\n\n"
    async with replying(writing(*(answer[place : place + 1] for place in range(len(answer))))) as url:
        result = await generate(client_of(url), HI)

    assert (result.text, result.finish_reason, result.usage) == ("猫🦉", "length", Usage())


async def test_an_answer_that_ends_without_done_is_whole_once_it_told_its_finish_reason(client_of):
    async with replying(writing(text_event("a", "stop"))) as url:
        assert (await generate(client_of(url), HI)).text == "a"


async def test_what_follows_done_is_not_read_as_the_answer(client_of):
    async with replying(writing(text_event("a", "stop") + b"data: [DONE]\n\n" + text_event("b"))) as url:
        assert (await generate(client_of(url), HI)).text == "a"


async def test_a_connection_closed_in_mid_answer_is_an_unavailable_engine(client_of):
    async with replying(writing(text_event("a"))) as url:
        stream = client_of(url).stream(HI)
        assert (await anext(stream)).text == "a"

        with pytest.raises(EngineUnavailableError) as caught:
            await anext(stream)

    assert caught.value.is_broken_off


async def test_a_finish_reason_of_no_letters_and_then_nothing_is_an_unavailable_engine(client_of):
    async with replying(writing(text_event("a", ""), text_event("b", ""))) as url:
        with pytest.raises(EngineUnavailableError, match="in the middle of an answer"):
            await generate(client_of(url), HI)


@pytest.mark.parametrize("max_tokens", [1, 100])
async def test_words_without_end_fail_the_generation(client_of, max_tokens):
    # Given a server that takes no notice of the bound it was given
    async def reply(writer: asyncio.StreamWriter) -> None:
        await writing()(writer)
        while True:
            writer.write(text_event("words " * 1000))
            await writer.drain()

    request = replace(HI, sampling=SamplingParams(max_tokens=max_tokens))
    async with replying(reply) as url:
        with pytest.raises(GenerationFailedError, match="does not end"):
            await generate(client_of(url), request)


async def test_an_answer_of_the_widest_tokens_is_not_taken_for_one_without_end(client_of):
    request = replace(HI, sampling=SamplingParams(max_tokens=200))
    async with replying(writing(*([text_event("-" * 64)] * 200), text_event("", "length"))) as url:
        assert len((await generate(client_of(url), request)).text) == 200 * 64


async def test_an_answer_that_says_nothing_for_ever_ends_in_time(client_of):
    # Given a server whose events never stop and never say anything
    async def reply(writer: asyncio.StreamWriter) -> None:
        await writing()(writer)
        while True:
            writer.write(text_event(""))
            await writer.drain()
            await asyncio.sleep(0)

    async with replying(reply) as url:
        with pytest.raises(EngineTimeoutError, match="did not end its answer"):
            await generate(client_of(url, answer_timeout_s=0.2), HI)


async def test_a_refusal_without_end_is_read_as_far_as_it_says_anything(client_of):
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Oops\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"no " * 10_000)
            await writer.drain()

    async with replying(reply) as url:
        with pytest.raises(GenerationFailedError, match=r"^no no") as caught:
            await generate(client_of(url), HI)
    assert len(caught.value.message) <= 1000


@pytest.mark.parametrize(
    ("ends", "told"), [(("length", "stop"), "length"), (("content_filter", "length"), "content_filter")]
)
async def test_of_two_ends_the_worse_is_told_and_nothing_follows_the_first(client_of, ends, told):
    answer = text_event("a", ends[0]) + text_event("b") + text_event("c", ends[1]) + b"data: [DONE]\n\n"
    async with replying(writing(answer)) as url:
        result = await generate(client_of(url), HI)
    assert (result.text, result.finish_reason) == ("a", told)


@pytest.mark.parametrize(
    ("said", "text", "thought"),
    [
        ("<think>plan</think>\nRed", "Red", "plan"),
        (" \n<think></think>\n\nRed", "Red", ""),
        ("<thin", "<thin", ""),
        ("<thinker> is a tag", "<thinker> is a tag", ""),
        ("Red <think>no</think>", "Red <think>no</think>", ""),
        ("<think>never ends </thi", "", "never ends </thi"),
        ("Red", "Red", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_thinking_that_a_server_left_in_the_answer_is_taken_out(client_of, said, text, thought, size):
    pieces = [text_event(said[start : start + size]) for start in range(0, len(said), size)]
    async with replying(writing(*pieces, text_event("", "stop"))) as url:
        result = await generate(client_of(url), HI)
    assert (result.text, result.reasoning) == (text, thought)


COUNTED = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}\n\n'


@pytest.mark.parametrize(
    ("rest", "completion_tokens"),
    [
        ([text_event("", "stop"), COUNTED, b"data: [DONE]\n\n"], 2),
        ([text_event("Why?"), text_event("", "length"), COUNTED], 2),
        ([], 0),
        ([b'data: {"error": {"message": "CUDA died", "code": 500}}\n\n'], 0),
        ([b"data: {oops\n\n"], 0),
    ],
    ids=["an end", "another turn", "nothing", "an error", "no json"],
)
@pytest.mark.parametrize("pieces", [("Red<|user|>",), ("Re", "d<|u", "ser|>")])
async def test_an_answer_whose_turn_has_ended_is_whole_whatever_its_server_says(
    client_of, pieces, rest, completion_tokens
):
    async with replying(writing(*map(text_event, pieces), *rest)) as url:
        result = await generate(client_of(url), HI)
    assert (result.text, result.finish_reason, result.usage.completion_tokens) == ("Red", "stop", completion_tokens)


@pytest.mark.parametrize(
    ("max_tokens", "told", "usage"),
    [
        (5, {"prompt_tokens": 7, "completion_tokens": 900}, Usage(prompt_tokens=7, completion_tokens=5)),
        (5, {"prompt_tokens": 7, "completion_tokens": 5}, Usage(prompt_tokens=7, completion_tokens=5)),
        (None, {"prompt_tokens": 7, "completion_tokens": 900}, Usage(prompt_tokens=7, completion_tokens=900)),
        (
            5,
            {
                "prompt_tokens": 7,
                "completion_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 8, "image_tokens": 9},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(prompt_tokens=7, completion_tokens=5, image_tokens=7, cached_tokens=7, reasoning_tokens=5),
        ),
    ],
)
async def test_no_answer_has_more_tokens_than_were_allowed_whatever_its_server_counts(
    client_of, max_tokens, told, usage
):
    counted = event({"choices": [], "usage": told})
    async with replying(writing(text_event("Red", "length"), counted, b"data: [DONE]\n\n")) as url:
        result = await generate(client_of(url), replace(HI, sampling=SamplingParams(max_tokens=max_tokens)))

    assert result.usage == usage


@pytest.mark.parametrize("word", ["", "sky "])
async def test_a_server_that_goes_on_after_the_turn_is_left(client_of, monkeypatch, word):
    monkeypatch.setattr(http_client, "_TAIL_S", 0.05)
    is_left = asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        try:
            await writing(text_event("Red"), text_event("<|user|>"))(writer)
            while True:
                writer.write(text_event(word) if word else b": ping\n\n")
                await writer.drain()
                await asyncio.sleep(0)
        finally:
            is_left.set()

    async with replying(reply) as url:
        result = await generate(client_of(url), HI)
        assert (result.text, result.finish_reason) == ("Red", "stop")
        await asyncio.wait_for(is_left.wait(), 60)


async def test_json_is_checked_up_to_the_end_of_the_turn(client_of):
    asked = replace(HI, sampling=SamplingParams(json_schema='{"type": "object"}'))
    async with replying(writing(text_event('{"a": 1}<|endoftext|>x'), text_event("", "stop"))) as url:
        assert (await generate(client_of(url), asked)).text == '{"a": 1}'


async def test_a_connection_reset_in_mid_answer_is_an_unavailable_engine(client_of):
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + text_event("a"))
        await writer.drain()
        writer.transport.abort()

    async with replying(reply) as url:
        with pytest.raises(EngineUnavailableError):
            await generate(client_of(url), HI)


async def test_a_connection_closed_before_the_status_is_an_unavailable_engine(client_of):
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with replying(reply) as url:
        with pytest.raises(EngineUnavailableError) as caught:
            await generate(client_of(url), HI)

    assert caught.value.is_broken_off


async def test_an_engine_that_did_not_have_the_request_did_not_break_off(client_of, tmp_path):
    async def reply(writer: asyncio.StreamWriter) -> None:
        body = b'{"error":{"message":"loading","code":"engine_unavailable"}}'
        head = f"HTTP/1.1 503 X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async with replying(reply) as loading:
        for url in (loading, f"unix://{tmp_path}/none", "http://127.0.0.1:1"):
            with pytest.raises(EngineUnavailableError) as caught:
                await generate(client_of(url), HI)
            assert not caught.value.is_broken_off


async def test_silence_before_the_first_byte_is_a_timeout(client_of):
    async def reply(_writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with replying(reply) as url:
        with pytest.raises(EngineTimeoutError):
            await generate(client_of(url, timeout_s=0.05), HI)


async def test_silence_in_mid_answer_is_a_timeout(client_of):
    async with replying(writing(text_event("a"), then_hang=True)) as url:
        stream = client_of(url, timeout_s=0.05).stream(HI)
        assert (await anext(stream)).text == "a"

        with pytest.raises(EngineTimeoutError):
            await anext(stream)


async def test_comments_alone_do_not_put_the_timeout_off(client_of):
    async def reply(writer: asyncio.StreamWriter) -> None:
        await writing()(writer)
        while True:
            writer.write(b": ping\n\n")
            await writer.drain()
            await asyncio.sleep(0.005)

    async with replying(reply) as url:
        with pytest.raises(EngineTimeoutError):
            await generate(client_of(url, timeout_s=0.1), HI)


async def test_a_slow_caller_is_no_silent_engine(client_of):
    # Given an engine that sends its second word only once the caller is back for it
    is_back = asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        await writing(text_event("a"))(writer)
        await is_back.wait()
        writer.write(text_event("b", "stop") + b"data: [DONE]\n\n")
        await writer.drain()

    async with replying(reply) as url:
        stream = client_of(url, timeout_s=0.3).stream(HI)
        received = [await anext(stream)]

        # When the caller takes longer than the timeout over the first word
        await asyncio.sleep(0.4)  # passing time is the very thing under test
        is_back.set()
        received += [delta async for delta in stream]

    assert "".join(delta.text for delta in received) == "ab"


async def test_an_answer_that_is_no_event_stream_is_a_failure(client_of):
    async with replying(writing(b"data: <html>\n\n")) as url:
        with pytest.raises(GenerationFailedError):
            await generate(client_of(url), HI)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:///nonexistent/engine.sock"])
async def test_nobody_there_is_an_unavailable_engine_everywhere(client_of, url):
    client = client_of(url)

    with pytest.raises(EngineUnavailableError, match="is not available"):
        await generate(client, HI)
    with pytest.raises(EngineUnavailableError):
        await client.info()
    assert await client.is_ready() is False


async def test_start_gives_up_after_the_timeout_and_says_why(client_of):
    with pytest.raises(EngineUnavailableError, match=r"Not ready after 0\.05 s"):
        await client_of("http://127.0.0.1:1", timeout_s=0.05).start()


async def test_closing_the_client_breaks_off_running_answers(client_of):
    async with replying(writing(text_event("a"), then_hang=True)) as url:
        client = client_of(url)
        stream = client.stream(HI)
        await anext(stream)
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)

        await client.aclose()

        with pytest.raises(EngineUnavailableError):
            await waiting


@pytest.mark.parametrize("url", ["127.0.0.1:8101", "ftp://host", "unix://engine.sock", "http://", ""])
def test_an_url_of_another_kind_is_refused_at_once(url):
    with pytest.raises(ValueError, match="no engine URL"):
        EngineClient(url, timeout_s=1.0)


# --- a server of another make ---------------------------------------------------------------------------------------


class ForeignServer:
    """Speaks as a vLLM server does: no ``/readyz``, no ``glowl`` extension, text and finish reason in one chunk."""

    def __init__(self) -> None:
        self.model = "zai-org/GLM-4.6V-Flash"
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[int] = set()
        self.is_healthy = True
        self.logprobs: object = None

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        self.bodies.append(orjson.loads(await request.read()))
        self.connections.add(id(request.transport))
        if self.bodies[-1]["model"] != self.model:
            error = {"message": "The model does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
            return web.json_response({"error": error}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        hello = {"index": 0, "delta": {"content": "Hello"}, "logprobs": self.logprobs, "finish_reason": None}
        await response.write(event({"choices": [hello]}) + text_event(" there", "stop"))
        await response.write(event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}))
        await response.write(b"data: [DONE]\n\n")
        await asyncio.sleep(0.01)  # the end of the response comes apart from the end of the answer
        return response

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "max_model_len": 4096}]})

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)


@pytest.fixture
async def foreign() -> AsyncIterator[tuple[ForeignServer, str]]:
    server = ForeignServer()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/v1/models", server.models)
    app.router.add_get("/health", server.health)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_foreign_server_stands_in(client_of, foreign):
    server, url = foreign
    client = client_of(f"{url}/v1", model=None, api_key="secret")

    await client.start()
    result = await generate(client, HI)

    assert (result.text, result.finish_reason) == ("Hello there", "stop")
    assert result.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert (await client.info()).context_tokens == 4096
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.bodies[0] == {
        "model": "zai-org/GLM-4.6V-Flash",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.0,
        "top_p": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": False},
        "thinking": {"type": "disabled"},
    }


async def test_each_call_has_an_id_of_its_own_and_says_for_which_request_it_is_only_to_an_engine_of_ours(
    client_of, foreign
):
    """vLLM names its runs by ``X-Request-ID`` and refuses a second of a name; callers may send one again."""
    server, url = foreign
    asked = replace(HI, request_id="resp_1", origin=Origin("every time the same"))
    client = client_of(f"{url}/v1", model=None)
    await client.start()
    for _ in range(2):
        await generate(client, asked)
    ids = [headers["X-Request-ID"] for headers in server.headers]
    assert len(set(ids)) == 2
    assert all(each.startswith("resp_1-") for each in ids)
    assert not any("X-Glowl-Request-ID" in headers for headers in server.headers)


async def test_an_engine_writes_down_for_which_request_it_has_answered(client_of, caplog, monkeypatch):
    monkeypatch.setattr(caplog.handler, "formatter", JsonLines("glm"))
    with caplog.at_level("INFO", logger="engines.meters"):
        async with listening(EchoEngine("glm")) as url:
            client = client_of(url, model=None)
            await client.start()  # it knows then that the engine is one of ours
            await generate(client, replace(HI, request_id="resp_1", origin=Origin("from the door, 门")))
            await generate(client, HI)
    lines = [orjson.loads(line) for line in caplog.text.splitlines()]
    lines = [line for line in lines if line["logger"] == "engines.meters"]
    assert [line["message"] for line in lines] == ["an answer has ended: stop"] * 2
    assert lines[0]["request_id"] == "from the door, 门"
    assert lines[0]["response_id"].startswith("resp_1-")
    assert lines[1]["request_id"].startswith("req_")
    assert lines[0]["completion_tokens"] > 0


async def test_a_foreign_server_is_told_the_caller_and_asked_for_log_probabilities(client_of, foreign):
    # Given a server that gives them as vLLM does: token by token, some without bytes
    server, url = foreign
    entry = {"token": "Hello", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    server.logprobs = {"content": [entry]}

    result = await generate(
        client_of(url, model=None), replace(HI, sampling=SamplingParams(top_logprobs=2), caller="alice")
    )

    assert result.logprobs == (TokenLogprob("Hello", -0.5, b"Hello"),)
    assert {key: server.bodies[0][key] for key in ("logprobs", "top_logprobs", "user")} == {
        "logprobs": True,
        "top_logprobs": 2,
        "user": "alice",
    }


async def test_a_foreign_server_that_ignores_the_wish_for_log_probabilities_is_no_silent_loss(client_of, foreign):
    _, url = foreign

    with pytest.raises(InvalidRequestError) as caught:
        await generate(client_of(url, model=None), replace(HI, sampling=SamplingParams(top_logprobs=2)))

    assert caught.value.param == "logprobs"


async def test_readiness_of_a_foreign_server_is_its_health(client_of, foreign):
    server, url = foreign

    assert await client_of(url).is_ready() is True
    server.is_healthy = False
    assert await client_of(url).is_ready() is False


async def test_answers_one_after_another_share_a_connection(client_of, foreign):
    server, url = foreign
    client = client_of(url, model=None)

    for _ in range(5):
        await generate(client, HI)

    assert len(server.connections) == 1


async def test_a_wrong_model_name_is_an_unavailable_engine(client_of, foreign):
    _, url = foreign

    with pytest.raises(EngineUnavailableError, match="does not exist"):
        await generate(client_of(url, model="other"), HI)
    with pytest.raises(EngineUnavailableError, match="other"):
        await client_of(url, model="other").info()


async def test_a_server_that_came_back_with_another_model_is_asked_for_it(client_of, foreign):
    server, url = foreign
    client = client_of(url, model=None)
    await generate(client, HI)

    # When the model changes, the first request may fail, and the next one must not
    server.model = "glm-next"
    with pytest.raises(EngineUnavailableError):
        await generate(client, HI)
    await generate(client, HI)

    assert server.bodies[-1]["model"] == "glm-next"


async def test_a_large_picture_is_sent_whole(client_of, foreign):
    server, url = foreign
    image = ImagePart(bytes(range(256)) * 20_000, "image/png", "0" * 64)

    await generate(client_of(url, model=None), GenerationRequest((Message("user", (image,)),)))

    (part,) = server.bodies[0]["messages"][0]["content"]
    assert len(part["image_url"]["url"]) == len("data:image/png;base64,") + (len(image.data) + 2) // 3 * 4


async def test_an_error_is_an_engine_error_whatever_breaks(client_of):
    # Given replies that are cut or wrong at every level
    for reply in (b"", b"HTTP/1.1 200 OK\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n<ht"):

        async def send(writer: asyncio.StreamWriter, reply: bytes = reply) -> None:
            writer.write(reply)
            await writer.drain()

        async with replying(send) as url:
            with pytest.raises(EngineError):
                await generate(client_of(url), HI)


# --- what a server refuses, and what is done about it ---------------------------------------------------------------


@contextlib.asynccontextmanager
async def scripted(*replies: web.Response) -> AsyncIterator[tuple[str, list[tuple[str, dict]]]]:
    """Answer every request with the next reply, the last one for ever; yield the URL and what was asked."""
    asked: list[tuple[str, dict]] = []
    left = list(replies)

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        asked.append((request.path, orjson.loads(body) if body else {}))
        reply = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(body=reply.body, status=reply.status, headers=reply.headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


def events_of(*pieces: str) -> web.Response:
    events = b"".join(text_event(piece) for piece in pieces[:-1]) + text_event(pieces[-1], "stop")
    return web.Response(body=events + b"data: [DONE]\n\n", content_type="text/event-stream")


def refusal(status: int, message: str, **details: object) -> web.Response:
    return web.json_response({"error": {"message": message, **details}}, status=status)


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "refuses the API key"), (402, "paid"), (403, "API key"), (404, "path or model"), (307, "points to")],
)
async def test_what_only_an_operator_can_mend_says_what_and_where(client_of, status, hint):
    async with scripted(refusal(status, "nope")) as (url, _):
        with pytest.raises(EngineUnavailableError, match=hint) as caught:
            await generate(client_of(url, api_key="secret"), HI)

    assert url in caught.value.for_operators
    assert "nope" in caught.value.message
    assert url not in caught.value.message
    assert "secret" not in caught.value.for_operators


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"upstream connect error\nreset", "text/plain", "upstream connect error"),
        (b"<html><head><title>502 Bad\n Gateway</title></head></html>", "text/html", "502 Bad Gateway"),
        (b"<html></html>", "text/html", "status 502"),
        (b'{"detail": "no backend"}', "application/json", "no backend"),
        (b'{"object": "error", "message": "flat"}', "application/json", "flat"),
    ],
)
async def test_a_refusal_in_any_form_is_told_in_its_own_words(client_of, body, content_type, words):
    async with scripted(web.Response(body=body, status=502, content_type=content_type)) as (url, _):
        with pytest.raises(EngineUnavailableError) as caught:
            await generate(client_of(url), HI)

    assert words in caught.value.message
    assert "<" not in caught.value.message


@pytest.mark.parametrize("retry_after", ["7", "7.0"])
async def test_a_full_server_says_when_to_come_again(client_of, retry_after):
    async with scripted(web.Response(status=429, text="slow down", headers={"Retry-After": retry_after})) as (url, _):
        with pytest.raises(EngineOverloadedError, match="slow down") as caught:
            await generate(client_of(url), HI)

    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Wed, 01 Jan 2020 00:00:00 GMT", 0.0),
        ("Fri, 01 Jan 9999 00:00:00 GMT", 3600.0),
        ("soon", None),
        ("-3", 0.0),
        (None, None),
        ("nan", None),
        ("-inf", 0.0),
        ("inf", 3600.0),
        ("1e400", 3600.0),
        ("9" * 400, 3600.0),
    ],
)
async def test_a_time_to_come_again_may_be_a_date_or_nonsense(client_of, value, seconds):
    headers = {} if value is None else {"Retry-After": value}
    async with scripted(web.Response(status=429, headers=headers)) as (url, _):
        with pytest.raises(EngineOverloadedError) as caught:
            await generate(client_of(url), HI)

    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
async def test_a_document_in_place_of_events_is_a_wrong_address(client_of, content_type):
    async with scripted(web.Response(body=b"{}", content_type=content_type)) as (url, _):
        with pytest.raises(EngineUnavailableError, match="is its address right"):
            await generate(client_of(url), HI)


async def test_an_error_with_a_status_of_200_is_that_error(client_of):
    error = {"error": {"message": "context length exceeded", "code": "context_length_exceeded"}}
    async with scripted(web.json_response(error)) as (url, _):
        with pytest.raises(ContextLengthError):
            await generate(client_of(url), HI)


async def test_a_strict_server_is_asked_without_what_it_does_not_know_and_that_is_remembered(client_of):
    # Given a server that refuses what it does not know, one field at a time
    echo = EchoEngine()
    await echo.start()
    unknown = ("user", "cache_salt", "thinking", "stream_options")
    async with serving(echo, unknown_fields=unknown) as server:
        client = client_of(server.url, model=None)
        request = replace(HI, caller="alice", sampling=SamplingParams(seed=5, max_tokens=9))

        for _ in range(2):
            assert (await generate(client, request)).text == "[echo glm] no pictures, question: hi"

        # Then what matters was sent, and the second request passed at once
        assert server.num_refused == len(unknown)
        for body in server.bodies:
            assert not set(body) & set(unknown)
            assert (body["seed"], body["max_tokens"]) == (5, 9)
            assert body["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "message",
    [
        "Unknown parameter: 'thinking'.",
        "Unrecognized request argument supplied: thinking",
        "property 'thinking' is unsupported",
        'json: unknown field "thinking"',
        "Extra inputs are not permitted: `thinking`",
    ],
)
async def test_every_way_to_name_an_unknown_field_is_understood(client_of, message):
    async with scripted(refusal(400, message), events_of("ok")) as (url, asked):
        assert (await generate(client_of(url), HI)).text == "ok"

    assert ["thinking" in body for _, body in asked] == [True, False]


async def test_a_list_of_extra_fields_is_understood_too(client_of):
    detail = [{"type": "extra_forbidden", "loc": ["body", "user"], "msg": "Extra inputs are not permitted"}]
    async with scripted(web.json_response({"detail": detail}, status=422), events_of("ok")) as (url, asked):
        assert (await generate(client_of(url), replace(HI, caller="alice"))).text == "ok"

    assert ["user" in body for _, body in asked] == [True, False]


@pytest.mark.parametrize("field", ["seed", "stop", "top_p", "temperature", "logprobs", "messages"])
async def test_what_changes_an_answer_is_never_left_out(client_of, field):
    sampling = SamplingParams(seed=1, stop=("x",), top_logprobs=0)
    async with scripted(refusal(400, f"Unknown parameter: '{field}'.", param=field), events_of("ok")) as (url, asked):
        with pytest.raises(InvalidRequestError, match=field):
            await generate(client_of(url), replace(HI, sampling=sampling))

    assert len(asked) == 1


async def test_a_refusal_that_goes_on_without_the_field_is_not_held_against_it(client_of):
    # Given a wrong request, in whose refusal the word "user" stands
    async with scripted(refusal(400, "after 'user' must come 'assistant'"), events_of("ok")) as (url, asked):
        client = client_of(url)
        request = replace(HI, caller="alice")
        await generate(client, request)
        await generate(client, request)

    assert ["user" in body for _, body in asked] == [True, False, False]

    async with scripted(refusal(400, "after 'user' must come 'assistant'")) as (url, asked):
        client = client_of(url)
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match="assistant"):
                await generate(client, request)

    assert ["user" in body for _, body in asked] == [True, False, True, False]


async def test_a_server_that_cannot_be_told_whether_to_think_is_no_engine(client_of):
    refusals = [
        refusal(400, "Unknown parameter: 'thinking'"),
        refusal(400, "Unknown parameter: 'chat_template_kwargs'"),
    ]
    async with scripted(*refusals) as (url, _):
        with pytest.raises(EngineUnavailableError, match="whether to think"):
            await generate(client_of(url), HI)


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 "
        "tokens and your request has 2778 input tokens (8000 > 4096 - 2778).",
        "This model's maximum context length is 4096 tokens. However, you requested 10778 tokens (2778 in the "
        "messages, 8000 in the completion). Please reduce the length of the messages or completion.",
    ],
)
async def test_a_bound_over_the_context_is_shrunk_to_what_the_server_says_is_left(client_of, message):
    request = replace(HI, sampling=SamplingParams(max_tokens=8000))
    async with scripted(refusal(400, message), events_of("ok")) as (url, asked):
        assert (await generate(client_of(url), request)).text == "ok"

    assert [body["max_tokens"] for _, body in asked] == [8000, 4096 - 2778]


async def test_a_prompt_over_the_context_is_refused_after_one_request(client_of):
    message = "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens."
    async with scripted(refusal(400, message)) as (url, asked):
        with pytest.raises(ContextLengthError):
            await generate(client_of(url), replace(HI, sampling=SamplingParams(max_tokens=8000)))

    assert len(asked) == 1


# --- where it is, and whether it is ready ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/glm", "/glm/v1/chat/completions"),
        ("/api/paas/v4", "/api/paas/v4/chat/completions"),
    ],
)
async def test_the_api_is_under_v1_unless_the_address_says_another_version(client_of, path, expected):
    async with scripted(events_of("ok")) as (url, asked):
        await generate(client_of(url + path), HI)

    assert [asked_path for asked_path, _ in asked] == [expected]


@pytest.mark.parametrize("url", ["http://user:secret@host", "https://host/v1?key=secret", "http://host#secret"])
def test_an_address_that_may_hold_a_secret_is_refused_without_showing_it(url):
    with pytest.raises(ValueError, match="a key has its own setting") as caught:
        EngineClient(url, timeout_s=1.0)

    assert "secret" not in str(caught.value)


def test_a_list_of_addresses_is_taken_apart():
    assert split_urls(" http://a:1 ,unix:///b,, http://a:1") == ("http://a:1", "unix:///b")
    for wrong in ("", " , ", "http://a:1,b"):
        with pytest.raises(ValueError, match="no engine URL"):
            split_urls(wrong)


async def test_a_hosted_server_is_ready_if_it_lists_models_and_is_not_asked_each_time(client_of):
    # Given a server that has neither way to ask for its health
    asked: list[str] = []

    async def models(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"data": [{"id": "m"}]})

    app = web.Application()
    app.router.add_get("/api/paas/v4/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = client_of(f"http://127.0.0.1:{runner.addresses[0][1]}/api/paas/v4")

    assert [await client.is_ready() for _ in range(5)] == [True] * 5
    assert asked == ["/api/paas/v4/models"]

    # When a request fails, what the list said counts no more
    with pytest.raises(EngineUnavailableError):
        await generate(client, HI)
    await runner.cleanup()
    client._listed = None
    assert (await client.probe())[0] == "waiting"


async def test_a_server_that_lists_no_models_is_taken_at_the_name_it_was_given(client_of):
    async with scripted(web.Response(status=404)) as (url, _):
        info = await client_of(url, model="glm-4.6v-flash", name="glm").info()
        assert (info.name, info.model_id, info.variant) == ("glm", "glm-4.6v-flash", "full")
        assert await client_of(url, model="glm-4.6v-flash").is_ready() is True
        with pytest.raises(EngineUnavailableError):
            await client_of(url, model=None).info()


async def test_our_own_server_is_sent_nothing_it_does_not_know(client_of):
    # Given a server of ours and one that is not
    echo = EchoEngine()
    sent = []
    real = requests.to_chat_pieces

    async with listening(echo) as url:
        client = client_of(url, model=None)
        await client.start()
        assert (await client.info()).name == "glm"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                requests, "to_chat_pieces", lambda *args, **options: sent.append(real(*args, **options)) or sent[-1]
            )
            await generate(client, replace(HI, caller="alice"))

    assert not {"thinking", "cache_salt"} & set(orjson.loads(b"".join(sent[0])))


async def test_a_schema_is_sent_to_other_servers_in_openais_shape_and_prose_in_return_is_an_error(client_of):
    # Given a server that follows the schema, and then ignores it
    held = replace(HI, sampling=SamplingParams(json_schema='{"type":"object","required":["a"]}'))
    async with scripted(events_of('{"a":1}'), events_of("Sure! Here it is")) as (url, asked):
        client = client_of(url)
        result = await generate(client, held)
        with pytest.raises(GenerationFailedError, match="ignores 'response_format'"):
            await generate(client, held)

    assert result.text == '{"a":1}'
    assert asked[0][1]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object", "required": ["a"]}, "strict": True},
    }


@pytest.mark.parametrize(
    "said",
    [
        '{"b":"no"}',
        "5",
        '{"a":"1"}',
        '{"a": NaN}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":1,"b":[1e400]}',
        '{"a":1,"a":2}',
        '{"a":1,"b":{"c":1,"c":1}}',
    ],
)
async def test_json_of_a_foreign_server_that_breaks_the_schema_is_no_answer(client_of, said):
    schema = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'
    async with scripted(events_of(said)) as (url, _):
        with pytest.raises(GenerationFailedError, match="ignores 'response_format'"):
            await generate(client_of(url), replace(HI, sampling=SamplingParams(json_schema=schema)))


async def test_json_is_taken_where_its_schema_cannot_be_checked_in_bounds(client_of):
    schema = '{"type":"string","pattern":"(a+)+$"}'
    async with scripted(events_of('"aaaa"')) as (url, _):
        result = await generate(client_of(url), replace(HI, sampling=SamplingParams(json_schema=schema)))

    assert result.text == '"aaaa"'


@pytest.mark.parametrize(
    "pieces",
    [
        ['```json\n{"a":1}\n```'],
        ["\n`", "``", "json\n", '{"a":', "1}", "\n``", "`\n"],
        ['```\n{"a":1}```'],
        ['```JSON\r\n{"a":1}\r\n```  '],
        ['```json {"a":1} ```'],
        ['```{"a":1}```'],
        ['{"a"', ":1}"],
    ],
)
async def test_json_of_a_foreign_server_comes_without_its_fence(client_of, pieces):
    held = replace(HI, sampling=SamplingParams(json_schema='{"type":"object","required":["a"]}'))
    async with scripted(events_of(*pieces)) as (url, _):
        result = await generate(client_of(url), held)

    assert result.text == '{"a":1}'


@pytest.mark.parametrize("pieces", [["Sorry, ", "no."], ["\n ", "好的：", '{"a":1}'], ["<json>", '{"a":1}'], ["'a'"]])
@pytest.mark.parametrize("schema", ['{"type":"object","required":["a"]}', "{}"])
async def test_words_in_place_of_json_end_the_answer_before_any_is_shown(client_of, schema, pieces):
    held = replace(HI, sampling=SamplingParams(json_schema=schema))
    shown: list[str] = []

    async def read(url: str) -> None:
        async for delta in client_of(url).stream(held):
            shown.append(delta.text)

    async with scripted(events_of(*pieces)) as (url, _):
        with pytest.raises(GenerationFailedError, match="ignores 'response_format'"):
            await read(url)

    assert "".join(shown).strip() == ""


@pytest.mark.parametrize("text", ["[1]", '"a"', "-1", "5", "true", "false", "null", "  {}"])
async def test_any_json_may_begin_as_json_does(client_of, text):
    async with scripted(events_of(*text)) as (url, _):
        result = await generate(client_of(url), replace(HI, sampling=SamplingParams(json_schema="true")))

    assert result.text == text


@pytest.mark.parametrize(
    "said", ['```json\n{"b":1}\n```', '```json\n{"a":1}', '```json\n{"a":1}\n```\nDone.', "```", "``", "``````", ""]
)
async def test_a_fence_without_the_json_asked_for_is_no_answer(client_of, said):
    held = replace(HI, sampling=SamplingParams(json_schema='{"type":"object","required":["a"]}'))
    async with scripted(events_of(said)) as (url, _):
        with pytest.raises(GenerationFailedError, match="ignores 'response_format'"):
            await generate(client_of(url), held)


async def test_a_fence_stays_where_no_json_was_asked_for(client_of):
    async with scripted(events_of("```json\n", "{}\n```")) as (url, _):
        result = await generate(client_of(url), HI)

    assert result.text == "```json\n{}\n```"
