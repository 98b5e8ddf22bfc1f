"""The engine client against servers that misbehave, and against servers of another make."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import orjson
import pytest
from aiohttp import web

from engines.base import (
    EngineError,
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
from engines.client import EngineClient

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

        with pytest.raises(EngineUnavailableError):
            await anext(stream)


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
        with pytest.raises(EngineUnavailableError):
            await generate(client_of(url), HI)


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
    }


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
