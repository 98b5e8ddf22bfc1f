"""What the router knows of its engines: by their place in the settings, whatever they call themselves."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engines.base import CallerWait, EngineInfo
from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from engines.http.balancer import BalancedClient
from engines.http.client import EngineClient
from router.app import create_app
from router.health import EngineMonitor
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess

MODEL = "Org/GLM-4.6V-Flash-AWQ"


def plain_server() -> Starlette:
    """Speaks the OpenAI wire and nothing of ours, as a vLLM server does."""

    async def chat(request: Request) -> Response:
        assert (await request.json())["model"] == MODEL
        chunks = [
            {"choices": [{"index": 0, "delta": {"content": "plain"}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        return Response(events + "data: [DONE]\n\n", media_type="text/event-stream")

    async def models(_request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 4096}]})

    async def health(_request: Request) -> Response:
        return Response()

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ]
    )


async def test_whoever_wants_to_know_hears_once_that_an_engine_is_up_again() -> None:
    class Server:
        is_well = False

        async def is_ready(self) -> bool:
            return self.is_well

        async def info(self) -> EngineInfo:
            return EngineInfo("owl2", "m", "echo", 9, 9)

    server, told = Server(), []

    async def on_up(name: str) -> None:
        told.append(name)

    monitor = EngineMonitor({"owl2": cast("Any", server)}, on_up=on_up)
    for is_well in (False, True, True, False, True):
        server.is_well = is_well
        await monitor._look_at("owl2", cast("Any", server))
        assert monitor.down() == (frozenset() if is_well else {"owl2"})
    await monitor.aclose()

    assert told == ["owl2", "owl2"]


def test_a_monitor_ends_also_when_it_was_started_again_on_another_loop() -> None:
    class Server:
        async def is_ready(self) -> bool:
            return False

    monitor = EngineMonitor({"glm": cast("Any", Server())}, interval_s=0.01)

    async def live(seconds: float) -> None:
        await monitor.start()
        await asyncio.sleep(seconds)
        await monitor.aclose()

    asyncio.run(live(0.1))
    asyncio.run(live(0))  # before its first look


async def test_an_engine_that_answers_nobody_is_down_for_a_while_whatever_it_says() -> None:
    class Server:
        async def is_ready(self) -> bool:
            return True

        async def info(self) -> EngineInfo:
            return EngineInfo("glm", "m", "echo", 9, 9)

    server = cast("Any", Server())
    now = 1000.0
    monitor = EngineMonitor({"glm": server}, clock=lambda: now)
    await monitor._look_at("glm", server)

    monitor.mark_silent("glm")
    now += 29
    await monitor._look_at("glm", server)
    assert not monitor.is_up("glm")
    now += 2
    await monitor._look_at("glm", server)
    assert monitor.is_up("glm")


async def test_an_engine_that_does_not_say_how_it_is_is_unheard_before_it_is_down() -> None:
    class Server:
        may_answer = asyncio.Event()
        is_asked = asyncio.Event()

        async def is_ready(self) -> bool:
            self.is_asked.set()
            await self.may_answer.wait()
            return True

        async def info(self) -> EngineInfo:
            return EngineInfo("glm", "m", "echo", 9, 9)

    server, now = Server(), 1000.0
    monitor = EngineMonitor({"glm": cast("Any", server)}, clock=lambda: now)
    look = asyncio.create_task(monitor._look_at("glm", cast("Any", server)))
    await server.is_asked.wait()

    now += 1.9
    assert monitor.unheard() == frozenset()
    now += 0.2
    assert monitor.unheard() == {"glm"}
    assert monitor.is_up("glm")

    server.may_answer.set()
    await look
    assert monitor.unheard() == frozenset()
    monitor.mark_down("glm")
    assert monitor.unheard() == {"glm"}


@pytest.fixture(scope="module")
def api(redis_process: RedisProcess) -> Iterator[AppServer]:
    folder = Path(tempfile.mkdtemp(prefix="glowl-h"))
    glm = AppServer(plain_server(), uds=str(folder / "glm"))
    owl2 = AppServer(create_engine_app(EchoEngine("owl2")), uds=str(folder / "owl2"))
    server = AppServer(create_app(Settings(REDIS_URL=redis_process.url, glm_url=glm.url, owl2_url=owl2.url)))
    yield server
    for each in (server, glm, owl2):
        each.stop()


@pytest.fixture
def client(api: AppServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_a_plain_server_stands_in_for_glm_under_its_own_models_name(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="glowl", messages=[{"role": "user", "content": "你好"}])

    assert completion.choices[0].message.content == "plain"
    assert completion.model == MODEL
    assert completion.model_extra is not None
    assert completion.model_extra["hybrid"]["engine"] == "glm"


def test_a_model_can_be_asked_for_by_the_name_it_is_listed_under(client: openai.OpenAI) -> None:
    listed = [model.id for model in client.models.list()]

    assert listed == ["glowl", MODEL, "mplug-owl2-echo"]
    for model in (MODEL, MODEL.lower(), "glm-4.6v-flash"):
        completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "What is it?"}])
        assert completion.model == MODEL
        assert client.models.retrieve(model).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("Org/other")


def test_a_plain_server_is_up_under_its_place_in_the_settings(api: AppServer) -> None:
    ready = httpx.get(api.url + "/readyz", trust_env=False).json()

    assert ready["engines"] == {"glm": "up", "owl2": "up"}
    assert "backends" not in ready


def test_log_probabilities_that_a_plain_server_leaves_out_are_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="glowl", messages=[{"role": "user", "content": "你好"}], logprobs=True)

    assert caught.value.param == "logprobs"


def test_several_servers_of_an_engine_are_shown_each_and_one_is_enough(
    redis_process: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    # Given one server of two, and an Owl2 with one that is there
    folder = Path(tempfile.mkdtemp(prefix="glowl-h"))
    live = AppServer(create_engine_app(EchoEngine("glm")), uds=str(folder / "live"))
    owl2 = AppServer(create_engine_app(EchoEngine("owl2")), uds=str(folder / "owl2"))
    dead = f"unix://{folder}/dead"
    settings = Settings(REDIS_URL=redis_process.url, glm_url=f"{dead},{live.url}", owl2_url=owl2.url)
    api = AppServer(create_app(settings))

    ready = httpx.get(api.url + "/readyz", trust_env=False)
    with openai.OpenAI(base_url=api.url + "/v1", api_key="unused", max_retries=0) as client:
        completion = client.chat.completions.create(model="glowl", messages=[{"role": "user", "content": "你好"}])
    for server in (api, live, owl2):
        server.stop()

    assert ready.status_code == 200
    assert ready.json()["engines"] == {"glm": "up", "owl2": "up"}
    # By its place in the setting; addresses are for the log
    assert ready.json()["backends"] == {"glm": [{"server": 1, "status": "down"}, {"server": 2, "status": "up"}]}
    assert str(folder) not in ready.text
    assert f"engine at {dead} is left out" in caplog.text
    assert completion.choices[0].message.content is not None
    assert completion.choices[0].message.content.startswith("[echo glm]")


async def test_an_engine_of_several_servers_is_down_when_none_of_them_is_left() -> None:
    engine = BalancedClient([EngineClient(url, timeout_s=1.0) for url in ("http://127.0.0.1:1", "http://127.0.0.1:2")])
    monitor = EngineMonitor({"glm": engine})

    engine._backends[0].open("died in the middle of an answer")
    monitor.mark_down("glm")
    assert monitor.is_up("glm")

    engine._backends[1].open("died too")
    monitor.mark_down("glm")
    assert not monitor.is_up("glm")


async def test_a_look_that_fails_in_no_foreseen_way_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    # Given an engine client with a bug that shows once
    class Client:
        looks = 0

        async def is_ready(self) -> bool:
            self.looks += 1
            if self.looks == 2:
                raise KeyError("a bug")
            return False

    client = Client()
    monitor = EngineMonitor({"glm": cast("EngineClient", client)}, interval_s=0)
    await monitor.start()
    looking: Any = monitor._watches[0]

    while client.looks < 4:
        assert not looking.done()
        await looking.get_loop().run_in_executor(None, lambda: None)

    await monitor.aclose()
    assert "a bug" in caplog.text


async def test_a_call_that_has_no_other_engine_looks_again_and_others_join_its_look() -> None:
    # Given an engine that was down at the last look
    class Server:
        num_looks = 0
        is_well = False

        async def is_ready(self) -> bool:
            self.num_looks += 1
            await asyncio.sleep(0)
            return self.is_well

        async def info(self) -> EngineInfo:
            return EngineInfo("owl2", "m", "echo", 9, 9)

    server = Server()
    monitor = EngineMonitor({"owl2": cast("Any", server)}, interval_s=3600)
    await monitor.start()
    assert monitor.down() == {"owl2"}

    # When calls look again, before and after it has come up
    await monitor.look_again("owl2")
    assert monitor.down() == {"owl2"}
    server.is_well = True
    await asyncio.gather(*(monitor.look_again("owl2") for _ in range(5)))

    # Then it is up after one look more, and an engine that is up is not looked at
    assert (monitor.down(), server.num_looks) == (frozenset(), 3)
    await monitor.look_again("owl2")
    assert server.num_looks == 3
    await monitor.aclose()


async def test_an_engine_that_hangs_does_not_keep_others_from_being_seen() -> None:
    # Given an engine whose machine is gone: nothing answers, and nothing refuses
    class Hanging:
        async def is_ready(self) -> bool:
            if hung:
                await asyncio.Event().wait()
            hung.append(True)
            return True

    class Returning:
        looks = 0

        async def is_ready(self) -> bool:
            self.looks += 1
            return self.looks > 3

        async def info(self) -> EngineInfo:
            seen.set()
            return await EchoEngine("glm").info()

    hung: list[bool] = []
    seen = asyncio.Event()
    engines = {"owl2": cast("EngineClient", Hanging()), "glm": cast("EngineClient", Returning())}
    engines["owl2"].info = EchoEngine("owl2").info  # type: ignore[method-assign]
    monitor = EngineMonitor(engines, interval_s=0)

    # When the other one comes back, then that is noticed
    await monitor.start()
    assert not monitor.is_up("glm")
    async with asyncio.timeout(300):
        await seen.wait()
    await monitor.aclose()
    assert monitor.is_up("glm")


def test_of_several_servers_the_shortest_wait_counts() -> None:
    class Servers:
        found: tuple[tuple[CallerWait, ...], ...] = ()

        def waiting(self) -> tuple[tuple[CallerWait, ...], ...]:
            return self.found

    servers = Servers()
    monitor = EngineMonitor({"glm": cast("Any", servers)})
    assert monitor.waits("glm") == (0.0, {})

    servers.found = ((CallerWait("ann", 2, 90.0, 10.0), CallerWait("bob", 1, 20.0, 20.0)),)
    assert monitor.waits("glm") == (20.0, {"ann": 90.0, "bob": 20.0})

    servers.found = (*servers.found, (CallerWait("ann", 1, 70.0, 5.0),))
    assert monitor.waits("glm") == (5.0, {"ann": 70.0, "bob": 5.0})

    # One that says nothing, as vLLM does, counts as one at which nobody waits.
    servers.found = (*servers.found, ())
    assert monitor.waits("glm") == (0.0, {"ann": 0.0, "bob": 0.0})
