"""The engine server over real sockets: readiness, the wire byte by byte, refusals, hanging up, and the command."""

import asyncio
import base64
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path

import httpx
import openai
import orjson
import pytest
from PIL import Image

from engines.base import (
    CallerWait,
    Delta,
    EngineOptions,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    InvalidRequestError,
    hash_caller,
)
from engines.echo import EchoEngine
from engines.http import app, exits, loading, server
from engines.http.balancer import BalancedClient
from engines.http.client import EngineClient, _to_waiting
from router.health import EngineMonitor
from tests.support.hub_server import serving_hub

CHAT = "/v1/chat/completions"


def body(text: str = "hi there", **fields: object) -> dict[str, object]:
    return {"model": "glm", "messages": [{"role": "user", "content": text}]} | fields


def data_url() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@contextlib.asynccontextmanager
async def serving(engine: EchoEngine, *, wait: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    async with server.listening(engine) as url, httpx.AsyncClient(base_url=url) as http:
        if wait:
            client = EngineClient(url, timeout_s=10.0)
            await client.start()
            await client.aclose()
        yield http


@pytest.fixture
async def open_http() -> AsyncIterator[Callable[..., object]]:
    async with contextlib.AsyncExitStack() as stack:

        async def open_(engine: EchoEngine, **options: bool) -> httpx.AsyncClient:
            return await stack.enter_async_context(serving(engine, **options))

        yield open_


@pytest.fixture
async def http(open_http) -> httpx.AsyncClient:
    return await open_http(EchoEngine("glm"))


async def hang_up_after_sending(http: httpx.AsyncClient, payload: dict[str, object]) -> asyncio.StreamWriter:
    """Send a chat request on a bare connection; closing the writer hangs up."""
    _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    raw = orjson.dumps(payload)
    writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(raw), raw))
    await writer.drain()
    return writer


class SlowToLoad(EchoEngine):
    """Loads when told to; or fails to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("glm")
        self.may_load = asyncio.Event()
        self._error = error

    async def start(self) -> None:
        await self.may_load.wait()
        if self._error is not None:
            raise self._error
        await super().start()


# --- readiness ------------------------------------------------------------------------------------------------------


async def test_it_listens_while_the_engine_loads_and_says_so(open_http):
    # Given an engine that is still loading
    engine = SlowToLoad()
    http = await open_http(engine, wait=False)

    # Then the process is alive, but not ready, and refuses questions as unavailable
    assert (await http.get("/healthz")).status_code == 200
    not_ready = await http.get("/readyz")
    assert (not_ready.status_code, not_ready.json()["reason"]) == (503, "the engine is loading")
    for refused in (await http.post(CHAT, json=body()), await http.get("/v1/models")):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert refused.headers["retry-after"] == "1"

    # When it has loaded, it answers
    engine.may_load.set()
    client = EngineClient(str(http.base_url), timeout_s=10.0)
    await client.start()
    await client.aclose()
    assert (await http.get("/readyz")).json() == {"status": "ready", "reason": ""}
    assert (await http.post(CHAT, json=body())).status_code == 200


async def test_a_failed_load_is_told_to_who_asks(open_http):
    engine = SlowToLoad(error=OSError("no such file: model.safetensors"))
    http = await open_http(engine, wait=False)
    engine.may_load.set()
    client = EngineClient(str(http.base_url), timeout_s=10.0)

    with pytest.raises(Exception, match=r"^the engine failed to load: OSError: no such file: model\.safetensors"):
        await client.start()

    await client.aclose()
    assert (await http.get("/readyz")).status_code == 500
    assert (await http.get("/healthz")).status_code == 200
    assert "model.safetensors" in (await http.post(CHAT, json=body())).json()["error"]["message"]


async def test_an_engine_that_does_not_get_on_is_not_ready_but_lives(open_http):
    class Stuck(EchoEngine):
        reason = ""

        def trouble(self) -> str:
            return self.reason

    # Given an engine that is ready, then stuck, then ready again
    engine = Stuck("glm")
    http = await open_http(engine)
    client = EngineClient(str(http.base_url), timeout_s=10.0)
    assert await client.is_ready()
    engine.reason = "decoding pictures is stuck"
    assert await client.probe() == ("waiting", "decoding pictures is stuck")
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/healthz")).status_code == 200
    engine.reason = ""
    assert await client.is_ready()
    await client.aclose()


async def test_who_waits_for_an_engine_is_told_with_its_readiness(open_http):
    class Busy(EchoEngine):
        waits = (CallerWait(hash_caller("ann"), 3, 61.5, 2.5),)

        def waiting(self) -> tuple[CallerWait, ...]:
            return self.waits

    engine = Busy("glm")
    http = await open_http(engine)
    client = EngineClient(str(http.base_url), timeout_s=10.0)
    assert client.waiting() == ((),)

    assert await client.is_ready()
    assert client.waiting() == (engine.waits,)
    balanced = BalancedClient([client])
    assert balanced.waiting() == (engine.waits,)
    monitor = EngineMonitor({"glm": balanced})
    assert monitor.waits("glm") == (2.5, {hash_caller("ann"): 61.5})
    assert monitor.num_waiting("glm") == 3
    assert monitor.waits("owl2") == (0.0, {})

    engine.waits = ()
    assert await client.is_ready()
    assert client.waiting() == ((),)
    await client.aclose()


@pytest.mark.parametrize(
    "body", [b"", b"ok", b"[]", b"{}", b'{"waiting": 3}', b'{"waiting": [{"caller": "x"}]}', b'{"waiting": [null]}']
)
def test_a_server_that_says_nothing_of_who_waits_has_nobody_waiting(body):
    assert _to_waiting(body) == ()


async def test_the_model_list_describes_the_engine(http):
    answer = (await http.get("/v1/models")).json()

    (model,) = answer["data"]
    assert answer["object"] == "list"
    assert (model["id"], model["object"]) == ("glm-4.6v-flash-echo", "model")
    info = await EchoEngine("glm").info()
    assert model["glowl"] == {
        "engine": "glm",
        "variant": "echo",
        "context_tokens": 8192,
        "max_images": 16,
        "costs": asdict(info.costs),
        "revision": info.revision,
    }
    assert info.costs.cell_px == 28


# --- answers --------------------------------------------------------------------------------------------------------


async def test_a_whole_answer_has_every_field_of_a_chat_completion(http):
    content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": data_url()}}]
    request = body(messages=[{"role": "user", "content": content}], chat_template_kwargs={"enable_thinking": True})

    response = await http.post(CHAT, json=request, headers={"X-Request-ID": "abc"})

    answer = response.json()
    assert response.headers["x-request-id"] == "abc"
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "glm-4.6v-flash-echo")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "[echo glm] 1 picture (64x48 png), question: what?",
                "refusal": None,
                "reasoning_content": "[echo glm] the question has 1 words",
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 15,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }


async def test_a_stream_has_role_deltas_finish_usage_and_done_in_that_order(http):
    request = body(stream=True, stream_options={"include_usage": True}, chat_template_kwargs={"enable_thinking": True})

    response = await http.post(CHAT, json=request)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"].startswith("req_")
    *lines, done, _ = response.text.split("\n\n")
    chunks = [orjson.loads(line.removeprefix("data: ")) for line in lines]
    first, *middle, finish, usage = chunks
    assert done == "data: [DONE]"
    assert {(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks} == {
        (first["id"], first["created"], "chat.completion.chunk")
    }
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [chunk["choices"][0]["delta"] for chunk in middle]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "[echo glm] the question has 2 words"
    assert "".join(delta.get("content", "") for delta in deltas) == "[echo glm] no pictures, question: hi there"
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 16)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_log_probabilities_come_in_openai_shape_whole_and_streamed(http):
    async with openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        wanted = {"model": "glm", "messages": [{"role": "user", "content": "猫"}], "logprobs": True, "top_logprobs": 2}

        whole = await client.chat.completions.create(**wanted)
        stream = await client.chat.completions.create(**wanted, stream=True)
        streamed = [chunk.choices[0].logprobs async for chunk in stream]

    logprobs = whole.choices[0].logprobs
    assert "".join(bytes(entry.bytes).decode() for entry in logprobs.content) == "[echo glm] no pictures, question: 猫"
    assert {entry.logprob for entry in logprobs.content} == {0.0}
    assert logprobs.refusal is None
    assert [entry for piece in streamed if piece for entry in piece.content] == logprobs.content


async def test_an_answer_without_tokens_has_an_empty_list_of_log_probabilities(http):
    response = await http.post(CHAT, json=body(logprobs=True, stop=["["]))

    choice = response.json()["choices"][0]
    assert (choice["message"]["content"], choice["logprobs"]) == ("", {"content": [], "refusal": None})


async def test_a_stream_tells_usage_only_when_asked(http):
    response = await http.post(CHAT, json=body(stream=True))

    assert "usage" not in response.text


async def test_the_unmodified_openai_package_is_served(http):
    async with openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="any", max_retries=0) as client:
        content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": data_url()}}]
        messages = [{"role": "user", "content": content}]

        whole = await client.chat.completions.create(model="glm", messages=messages)
        stream = await client.chat.completions.create(model="glm", messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        models = [model.id async for model in client.models.list()]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="glm", messages=messages, temperature=9)

    assert whole.choices[0].message.content == "[echo glm] 1 picture (64x48 png), question: what?"
    assert "".join(pieces) == whole.choices[0].message.content
    assert models == ["glm-4.6v-flash-echo"]
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_request")


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("POST", CHAT, b"{not json", 400, "invalid_json"),
        ("POST", CHAT, b'{"messages": 5}', 400, "invalid_request"),
        ("POST", CHAT, b"", 400, "invalid_json"),
        ("GET", CHAT, b"", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", b"", 404, "not_found"),
    ],
)
async def test_every_refusal_is_an_openai_envelope(http, method, path, content, status, code):
    response = await http.request(method, path, content=content)

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert response.headers["x-request-id"]


async def test_a_picture_address_is_refused_and_told_what_to_send(http):
    content = [{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]

    response = await http.post(CHAT, json=body(messages=[{"role": "user", "content": content}]))

    assert response.status_code == 400
    assert "data:image/png;base64" in response.json()["error"]["message"]


async def test_a_body_over_the_limit_is_refused_before_it_is_parsed(http, monkeypatch):
    monkeypatch.setattr(app, "MAX_BODY_BYTES", 1000)

    response = await http.post(CHAT, json=body("x" * 5_000_000))

    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert (await http.post(CHAT, json=body())).status_code == 200


async def test_a_large_body_is_answered(http):
    response = await http.post(CHAT, json=body("hi", ignored="x" * 5_000_000))

    assert response.json()["choices"][0]["message"]["content"].endswith("question: hi")


async def test_an_overloaded_engine_asks_to_come_back(open_http):
    http = await open_http(EchoEngine(fail_with=EngineOverloadedError("64 are waiting")))

    for stream in (False, True):
        response = await http.post(CHAT, json=body(stream=stream))

        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert response.json()["error"] == {
            "message": "64 are waiting",
            "type": "rate_limit_error",
            "param": None,
            "code": "engine_overloaded",
        }


async def test_a_failure_in_mid_stream_is_an_error_event(open_http):
    http = await open_http(EchoEngine(fail_with=GenerationFailedError("out of memory"), fail_after_deltas=2))

    response = await http.post(CHAT, json=body(stream=True))

    *_, last, _ = response.text.split("\n\n")
    assert response.status_code == 200
    assert orjson.loads(last.removeprefix("data: "))["error"]["message"] == "out of memory"
    assert "[DONE]" not in response.text


class Buggy(EchoEngine):
    """Raises what no engine should, or ends without a word."""

    def __init__(self, num_before: int, error: Exception | None) -> None:
        super().__init__("glm")
        self._num_before = num_before
        self._error = error

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        for _ in range(self._num_before):
            yield Delta(text="a")
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_before", [0, 1])
@pytest.mark.parametrize("error", [RuntimeError("a secret path"), None])
async def test_a_bug_in_an_engine_is_a_500_without_its_innards(open_http, caplog, stream, num_before, error):
    http = await open_http(Buggy(num_before, error))

    response = await http.post(CHAT, json=body(stream=stream))

    if stream and num_before:
        *_, last, _ = response.text.split("\n\n")
        answer = orjson.loads(last.removeprefix("data: "))
    else:
        assert response.status_code == 500
        answer = response.json()
    assert answer["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert ("a secret path" in caplog.text) == (error is not None)
    assert (await http.get("/readyz")).status_code == 200


# --- hanging up, shutting down --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_before_the_first_byte_cancels_the_generation(open_http, stream):
    engine = EchoEngine(delta_delay_s=3600.0)
    writer = await hang_up_after_sending(await open_http(engine), body(stream=stream))
    await engine.wait_for(lambda echo: echo.num_running == 1)

    writer.close()

    await engine.wait_for(lambda echo: echo.num_cancelled == 1)
    assert engine.num_running == 0


async def test_hanging_up_while_still_sending_is_no_error(caplog):
    engine = EchoEngine()
    async with serving(engine) as http:
        _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{" % CHAT.encode())
        await writer.drain()
        await http.get("/healthz")  # the server is certain to have met the first connection before the second
        writer.close()
        await writer.wait_closed()
        await http.get("/healthz")

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert engine.last_request is None


async def test_hanging_up_in_mid_stream_cancels_the_generation(open_http):
    engine = EchoEngine()
    http = await open_http(engine)

    async with http.stream("POST", CHAT, json=body("word " * 400, stream=True)) as response:
        engine.delta_delay_s = 3600.0
        await anext(response.aiter_bytes())
        await engine.wait_for(lambda echo: echo.num_running == 1)

    await engine.wait_for(lambda echo: echo.num_cancelled == 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_shutting_down_breaks_off_a_waiting_answer_with_a_503(stream):
    engine = EchoEngine(delta_delay_s=3600.0)
    async with httpx.AsyncClient() as http:
        async with server.listening(engine) as url:
            client = EngineClient(url, timeout_s=10.0)
            await client.start()
            await client.aclose()
            asking = asyncio.create_task(http.post(url + CHAT, json=body(stream=stream)))
            await engine.wait_for(lambda echo: echo.num_running == 1)

        response = await asking

    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert engine.num_cancelled == 1


async def test_shutting_down_in_mid_stream_sends_an_error_event():
    engine = EchoEngine()
    async with httpx.AsyncClient() as http, contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(server.listening(engine))
        client = EngineClient(url, timeout_s=10.0)
        await client.start()
        await client.aclose()
        async with http.stream("POST", url + CHAT, json=body("word " * 400, stream=True)) as response:
            engine.delta_delay_s = 3600.0
            received = response.aiter_text()
            text = await anext(received)

            await stack.aclose()

            text += "".join([piece async for piece in received])

    assert orjson.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "engine_unavailable"


async def test_an_engine_that_does_not_close_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(app, "_CLOSE_S", 0.01)
    engine = EchoEngine()
    engine.aclose = asyncio.Event().wait
    host = app.EngineHost(engine)

    async with host.run():
        pass

    assert host.is_stuck


# --- sockets --------------------------------------------------------------------------------------------------------


def test_a_listening_socket_names_its_protocol_so_that_small_events_go_out_at_once():
    with server._bound_socket("127.0.0.1", 0, None) as (listener, url):
        assert listener.proto == socket.IPPROTO_TCP
        assert url == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def short_folder():
    with tempfile.TemporaryDirectory(prefix="glowl") as folder:  # tmp_path is too long for a socket
        yield Path(folder)


def test_a_unix_socket_is_for_this_user_only_and_goes_away(short_folder):
    path = short_folder / "engine.sock"

    with server._bound_socket("", 0, path) as (_, url):
        assert path.stat().st_mode & 0o777 == 0o600
        assert url == f"unix://{path}"

    assert not path.exists()


def test_a_socket_left_behind_is_replaced_but_a_live_one_is_not(short_folder):
    path = short_folder / "engine.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))

    with (
        server._bound_socket("", 0, path),
        pytest.raises(OSError, match="in use"),
        server._bound_socket("", 0, path),
    ):
        pass


async def test_serving_leaves_the_signals_to_the_owner_of_the_process(open_http):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    await open_http(EchoEngine())

    assert {number: signal.getsignal(number) for number in before} == before


# --- the command ----------------------------------------------------------------------------------------------------


def checkpoint(folder: Path) -> str:
    (folder / "config.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glm", "--model", "/nonexistent/glm"], "there is no checkpoint folder at /nonexistent/glm"),
        (["glm", "--model", "./nonexistent"], "there is no checkpoint folder at nonexistent"),
        (["glm", "--model", "."], "has no config.json"),
        (["parrot", "--model", "echo-parrot"], "there is no engine named 'parrot'; there are: glm, owl2"),
        (["glm", "--model", "echo", "--uds", "/nonexistent/e.sock"], "cannot listen on /nonexistent/e.sock"),
    ],
)
def test_what_is_not_there_is_one_clear_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: object())

    # Supervisors do not try again what only somebody's hand can change
    assert server.main(arguments) == (1 if "cannot listen" in message else exits.HOPELESS)

    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("file", ["config.json", "tokenizer.model", "pytorch_model-1-of-2.bin"])
def test_a_folder_cloned_without_its_large_files_is_one_clear_line(capsys, monkeypatch, tmp_path, file):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: object())
    checkpoint(tmp_path)
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9976\n")

    assert server.main(["owl2", "--model", str(tmp_path)]) == exits.HOPELESS

    assert f"cloned without Git LFS: run `git lfs pull` in it to get {file}" in capsys.readouterr().err


def test_a_port_in_use_is_one_clear_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert server.main(["glm", "--model", "echo", "--port", str(port)]) == 1

    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1 port {port}: ")


def test_without_torch_the_extra_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)

    assert server.main(["glm", "--model", checkpoint(tmp_path)]) == exits.HOPELESS

    assert capsys.readouterr().err.strip() == (
        "error: engine 'glm' needs torch and transformers, not installed here: pip install 'glowl[engines]'"
    )


class _AwayError(Exception):
    waiting_helps = True


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (_AwayError("the hub does not answer"), exits.TRY_AGAIN, "glm cannot load x/y: the hub does not answer"),
        (ConnectionResetError("cut"), exits.TRY_AGAIN, "ConnectionResetError: cut"),
        (ValueError("2 tensors\n  are missing"), exits.HOPELESS, "ValueError: 2 tensors are missing"),
        (OSError("no file named model.safetensors"), exits.HOPELESS, "no file named model.safetensors"),
        (OSError(5, "Input/output error"), exits.UNKNOWN, "Input/output error"),
        (RuntimeError("CUDA out of memory"), exits.UNKNOWN, "RuntimeError: CUDA out of memory"),
        (RuntimeError("x" * 9000), exits.UNKNOWN, "xxx…"),
    ],
)
def test_an_engine_that_cannot_load_ends_the_process_with_one_line(capsys, monkeypatch, error, status, words):
    engine = SlowToLoad(error)
    engine.may_load.set()
    monkeypatch.setattr(server, "load_engine", lambda _name, _options: engine)

    assert server.main(["glm", "--model", "x/y", "--port", "0"]) == status

    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert len(line) < 1000


class _EndsByItself(EchoEngine):
    """Loads, then ends when told to."""

    def __init__(self) -> None:
        super().__init__("owl2")
        self.may_end = asyncio.Event()

    async def ended(self) -> str:
        await self.may_end.wait()
        return "its process has ended"


def test_an_engine_that_ends_by_itself_ends_the_process_so_that_it_is_started_again(capsys, monkeypatch):
    engine = _EndsByItself()
    engine.may_end.set()
    monkeypatch.setattr(server, "load_engine", lambda _name, _options: loading.DeferredEngine(lambda: engine))

    assert server.main(["owl2_vllm", "--model", "x/y", "--port", "0"]) == exits.TRY_AGAIN

    assert capsys.readouterr().err.splitlines()[-1] == "error: owl2_vllm: its process has ended"


async def test_an_engine_that_has_ended_is_unready_and_says_why(open_http):
    engine = _EndsByItself()
    host = app.EngineHost(engine)
    async with host.run():
        while host.state == "loading":  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        assert not host.failed.is_set()

        engine.may_end.set()
        await host.failed.wait()

        with pytest.raises(EngineUnavailableError, match="its process has ended"):
            host.require_ready()


async def test_an_engine_that_is_stuck_leaves_no_process_of_its_own_behind(monkeypatch):
    class Child:
        killed = False

        def kill(self) -> None:
            self.killed = True

    child, left = Child(), []
    engine = SlowToLoad(ValueError("broken"))
    engine.may_load.set()
    engine.aclose = asyncio.Event().wait
    monkeypatch.setattr(app, "_CLOSE_S", 0.01)
    monkeypatch.setattr(server.multiprocessing, "active_children", lambda: [child])
    monkeypatch.setattr(server.os, "_exit", left.append)
    monkeypatch.setattr(server.logging, "shutdown", lambda: None)
    arguments = server._parse(["glm", "--model", "x/y"])

    await server._serve(arguments, engine, 0)

    assert child.killed
    assert left == [exits.HOPELESS]


async def test_an_engine_is_its_folders_load_called_when_it_starts(monkeypatch, tmp_path):
    # Given a module in the place of engines/glm/engine.py
    given: list[EngineOptions] = []
    module = types.SimpleNamespace(load=lambda options: given.append(options) or EchoEngine("glm"))
    monkeypatch.setitem(sys.modules, "engines.glm.engine", module)
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: object())
    options = EngineOptions(model=checkpoint(tmp_path), device="cpu")

    # When it is made, then nothing is loaded yet; when it is started, then it is
    engine = loading.load_engine("glm", options)
    assert given == []
    with pytest.raises(Exception, match="loading"):
        await engine.info()
    await engine.start()

    assert given == [options]
    assert (await engine.info()).name == "glm"
    await engine.aclose()


async def test_a_model_of_a_hub_is_a_folder_before_its_engine_is_made(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    given: list[EngineOptions] = []
    module = types.SimpleNamespace(load=lambda options: given.append(options) or EchoEngine("glm"))
    monkeypatch.setitem(sys.modules, "engines.glm.engine", module)
    async with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with caplog.at_level("INFO"):
            engine = loading.load_engine("glm", EngineOptions(model="org/model"))
            await engine.start()
    (options,) = given
    assert options.model_name == "org/model"
    assert (Path(options.model) / "config.json").is_file()
    assert options.model in caplog.text
    await engine.aclose()


async def test_an_import_broken_off_half_way_is_waited_for_and_its_engine_closed():
    # Given a start that was cancelled while the module was being imported on another thread
    may_finish = threading.Event()
    echo = EchoEngine()

    def load() -> EchoEngine:
        may_finish.wait()
        return echo

    engine = loading.DeferredEngine(load)
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    # When it is closed, and the import ends
    closing = asyncio.create_task(engine.aclose())
    may_finish.set()
    await closing

    # Then the engine that came of it is closed too
    await echo.start()
    with pytest.raises(EngineUnavailableError):
        await anext(echo.stream(GenerationRequest(())))


async def test_a_module_that_fails_to_import_fails_the_start_and_closes_quietly():
    def load() -> EchoEngine:
        raise ImportError("no CUDA here")

    engine = loading.DeferredEngine(load)

    with pytest.raises(ImportError, match="no CUDA here"):
        await engine.start()
    await engine.aclose()


async def test_a_server_says_who_waits_and_that_it_is_stuck_though_its_engine_was_loaded_late():
    class Full(EchoEngine):
        stuck = ""

        def waiting(self) -> tuple[CallerWait, ...]:
            return (CallerWait(hash_caller("alice"), 2, 3.5, 1.5),)

        def trouble(self) -> str:
            return self.stuck

    engine = Full("glm")
    deferred = loading.DeferredEngine(lambda: engine)
    async with serving(deferred) as http:  # type: ignore[arg-type]
        assert (await http.get("/readyz")).json()["waiting"] == [asdict(engine.waiting()[0])]
        engine.stuck = "no picture moves"
        stuck = await http.get("/readyz")
    assert (stuck.status_code, stuck.json()["reason"]) == (503, "no picture moves")


async def test_an_engine_that_cannot_be_loaded_has_metrics_all_the_same():
    def load() -> EchoEngine:
        raise ImportError("no CUDA here")

    async with serving(loading.DeferredEngine(load), wait=False) as http:  # type: ignore[arg-type]
        while (await http.get("/readyz")).status_code != 500:
            pass
        assert "glowl_engine_ready 0.0" in (await http.get("/metrics")).text


def test_the_server_and_the_echo_import_no_torch():
    modules = "engines.http.server, engines.http.client, engines.echo"
    code = f"import sys, {modules}; print({{'torch', 'transformers'}} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


@pytest.mark.e2e
async def test_sigterm_ends_the_process_at_once_with_exit_code_0_though_an_answer_runs(short_folder):
    # Given the command serving the echo, with traces, in a Python that says so if it is taken down in order (with torch
    # that takes seconds), and an answer under way
    path = short_folder / "engine.sock"
    code = (
        "import atexit, runpy; atexit.register(print, 'taken down'); "
        "runpy.run_module('engines.http.server', run_name='__main__', alter_sys=True)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        "owl2",
        "--model",
        "echo",
        "--uds",
        str(path),
        env={**os.environ, "OTEL_TRACES_EXPORTER": "console"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    client = EngineClient(f"unix://{path}", timeout_s=300.0)
    await client.start()
    assert (await client.info()).model_id == "mplug-owl2-echo"
    http = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://localhost")
    async with http, http.stream("POST", CHAT, json=body("word " * 400, stream=True)) as response:
        await anext(response.aiter_bytes())

        # When it is told to end
        process.send_signal(signal.SIGTERM)

        # Then it does, with nothing on stderr but its own log, with the span of that answer, and the socket is gone
        spans, log = await asyncio.wait_for(process.communicate(), 300)
    await client.aclose()
    assert process.returncode == 0
    assert b"chat mplug-owl2-echo" in spans
    assert b"taken down" not in spans
    assert b"Traceback" not in log
    assert b"listening on unix://" in log
    assert not path.exists()


async def test_a_wrong_request_leaves_no_answer_running(open_http):
    engine = EchoEngine(fail_with=InvalidRequestError("no"))
    http = await open_http(engine)

    assert (await http.post(CHAT, json=body())).status_code == 400
    assert (engine.num_running, engine.num_cancelled) == (0, 0)
