"""How many tokens a prompt has, asked over the wire: of our own server, an older one, and one of another make."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web

from engines.base import GenerationRequest, ImagePart, Message, TextPart, Usage, generate
from engines.echo import EchoEngine
from engines.http.balancer import BalancedClient
from engines.http.client import EngineClient
from engines.http.server import listening

HELLO = GenerationRequest((Message("user", (TextPart("one two three"),)),))
PNG = ImagePart(b"\x89PNG\r\n\x1a\n", "image/png", sha256="0" * 64)
SEEN = GenerationRequest((Message("user", (PNG, TextPart("one two three"))),))


async def test_our_server_counts_what_an_answer_then_uses() -> None:
    async with listening(EchoEngine("glm")) as url:
        client = EngineClient(url, timeout_s=10)
        counted = await client.count(HELLO)
        answer = await generate(client, HELLO)
        assert await client.count(SEEN) == Usage(prompt_tokens=4, image_tokens=1)
        assert counted == Usage(prompt_tokens=3)
        assert answer.usage.prompt_tokens == 3
        await client.aclose()


class Foreign:
    """A server of another make that may know ``/tokenize``."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[dict] = []

    async def tokenize(self, request: web.Request) -> web.Response:
        self.bodies.append(orjson.loads(await request.read()))
        return web.json_response({"count": 17, "max_model_len": 4096, "tokens": []}, status=self.status)

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "max_model_len": 4096}]})


@pytest.fixture
async def foreign() -> AsyncIterator[tuple[Foreign, str]]:
    server = Foreign()
    app = web.Application()
    app.router.add_post("/tokenize", server.tokenize)
    app.router.add_get("/v1/models", server.models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_vllm_counts_texts_and_a_picture_is_nothing_it_could_say_exactly(foreign: tuple[Foreign, str]) -> None:
    server, url = foreign
    client = BalancedClient([EngineClient(url, timeout_s=10)])

    assert await client.count(HELLO) == Usage(prompt_tokens=17)
    assert await client.count(SEEN) is None

    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "one two three"}]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    await client.aclose()


async def test_a_server_that_does_not_count_is_asked_once(foreign: tuple[Foreign, str]) -> None:
    server, url = foreign
    server.status = 404
    client = EngineClient(url, timeout_s=10)

    assert await client.count(HELLO) is None
    assert await client.count(HELLO) is None

    assert len(server.bodies) == 1
    await client.aclose()
