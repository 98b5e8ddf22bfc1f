"""A caller's webhook receiver with bad manners: it fails, hangs up, and keeps a record of what it was told."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

import openai
import orjson
from aiohttp import web


@dataclass
class Heard:
    """What came under one ``webhook-id``.

    Attributes:
        posts: headers and body of every attempt.
        num_accepted: attempts that were answered with 2xx.
    """

    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    num_accepted: int = 0


class Receiver:
    """Listens on loopback; every third attempt or so goes wrong."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._chance = random.Random(f"receiver {seed}")
        self.heard: defaultdict[str, Heard] = defaultdict(Heard)
        self.url = ""

    async def start(self) -> None:
        """Begin to listen."""
        app = web.Application()
        app.router.add_post("/round/{seed}/job/{number}", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/round/{self._seed}/job"

    async def aclose(self) -> None:
        """Stop."""
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        heard = self.heard[request.headers["webhook-id"]]
        heard.posts.append(({key.lower(): value for key, value in request.headers.items()}, body))
        draw = self._chance.random()
        if draw < 0.2:
            return web.Response(status=500)
        heard.num_accepted += 1
        if draw < 0.3 and request.transport is not None:
            request.transport.close()  # it took the event, and the sender will never know
        return web.Response(status=204)

    def job_of(self, event_id: str) -> str:
        """Return the job that an event told of; empty if nobody has heard of it yet."""
        posts = self.heard[event_id].posts if event_id in self.heard else []
        return str(orjson.loads(posts[0][1])["data"]["id"]) if posts else ""

    def check(self, event_id: str, job_id: str, state: str, secret: str) -> list[str]:
        """Return what is wrong with what was heard of a job's end, given the one event it must be."""
        heard, wrong = self.heard[event_id], []
        if heard.num_accepted == 0:
            wrong.append(f"{job_id}: its event was never delivered")
        if len({body for _, body in heard.posts}) > 1:
            wrong.append(f"{job_id}: two attempts at one event differ")
        client = openai.OpenAI(api_key="unused")
        for headers, body in heard.posts:
            event = client.webhooks.unwrap(body, headers, secret=secret)
            if (event.id, event.type, event.data.id) != (event_id, f"response.{state}", job_id):  # type: ignore[union-attr]
                wrong.append(f"{job_id}: an event says {event.type} of {event.data.id}")  # type: ignore[union-attr]
        client.close()
        return wrong
