"""Two servers of another make behind the balancer: vLLM, and SGLang, which differs in the name of one field."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engines.base import EngineUnavailableError, GenerationRequest, Message, TextPart, generate
from engines.echo import EchoEngine
from engines.http.balancer import BalancedClient, connect
from tests.support.vllm_server import VllmServer

GUARD_S = 300  # against hangs


def ask(text: str) -> GenerationRequest:
    return GenerationRequest((Message("user", (TextPart(text),)),), request_id=text, caller="alice")


@pytest.fixture(params=["reasoning", "reasoning_content"], ids=["vllm", "sglang"])
async def servers(request) -> AsyncIterator[tuple[VllmServer, VllmServer]]:
    engines = [EchoEngine("glm") for _ in range(2)]
    servers = [VllmServer(engine, reasoning_field=request.param) for engine in engines]
    for engine, server in zip(engines, servers, strict=True):
        await engine.start()
        await server.start()
    yield servers[0], servers[1]
    for engine, server in zip(engines, servers, strict=True):
        await server.stop()
        await engine.aclose()


@pytest.fixture
async def client(servers) -> AsyncIterator[BalancedClient]:
    client = connect([server.url for server in servers], timeout_s=60.0, name="glm")
    assert isinstance(client, BalancedClient)
    await client.start()
    yield client
    await client.aclose()


async def answer_all(client: BalancedClient, number: int) -> list[str]:
    questions = [f"question {each} " + "word " * 50 for each in range(number)]
    results = await asyncio.gather(*(generate(client, ask(question)) for question in questions))
    return [result.text for result in results]


async def test_both_answer_and_one_that_is_killed_is_left_out_until_it_is_back(client, servers):
    one, other = servers
    # Given both, then both have a share of what is asked at once
    texts = await answer_all(client, 16)
    assert all(f"question {each} " in text for each, text in enumerate(texts))
    assert one.bodies
    assert other.bodies
    assert len(one.bodies) + len(other.bodies) == 16
    # When one is killed, then every question is answered all the same
    port = int(one.url.rpartition(":")[2])
    await one.stop()
    assert len(await answer_all(client, 8)) == 8
    assert len(one.bodies) + len(other.bodies) == 24
    (gone,) = [status for status in client.status() if not status.is_up]
    assert gone.url == one.url
    # When it is back at its address, then it has its share again
    await one.start(port)
    async with asyncio.timeout(GUARD_S):
        while not all(status.is_up for status in client.status()):  # it is looked at again after a pause
            assert await client.is_ready()
            await asyncio.sleep(0.05)
    one.bodies.clear()
    await answer_all(client, 16)
    assert one.bodies


async def test_a_conversation_stays_with_the_server_that_has_read_it(client, servers):
    question = "what is this " + "word " * 300
    for _ in range(4):
        await generate(client, ask(question))
    assert sorted(len(server.bodies) for server in servers) == [0, 4]
    # Prefixes are not shared between callers
    assert all(body["cache_salt"] for server in servers for body in server.bodies)


async def test_with_both_gone_the_error_names_both(client, servers):
    for server in servers:
        await server.stop()
    # The first question finds out, the next one is told
    for _ in range(2):
        with pytest.raises(EngineUnavailableError) as raised:
            await generate(client, ask("hello"))
    assert all(server.url in str(raised.value.detail) for server in servers)
