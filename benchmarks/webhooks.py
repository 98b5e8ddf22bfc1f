"""What strangers' servers cost everybody else: many receivers, silent ones, names that nobody answers for.

    python -m benchmarks.webhooks                           # from the repository's root; some minutes

The whole product as processes with echo engines; receivers run in a process of their own. A held chat is a deep
question whose answer is waited for. A silent receiver accepts and never answers; a silent name is one whose lookup
takes 10 s, played by a `socket.getaddrinfo` that sleeps.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.jobs_common import NO_LIMIT, QUESTION, Json, delay_for, ended
from benchmarks.printed import at_percent, print_machine, table
from router.fetch import FetchError, SafeFetcher, fetching_for
from router.settings import Settings
from tests.support.servers import free_port, wait_until
from tests.support.stack import ProcessStack

_KEYS = ("ann", "bob")
_SILENT_S = 10.0


async def receive(port: int) -> None:
    """Answer posts on 127.0.0.1 at once and say when each came; on 127.0.0.2 never answer."""
    came: list[tuple[str, float]] = []

    async def prompt(request: web.Request) -> web.Response:
        body = await request.json()
        came.append((body["data"]["id"], time.time()))
        return web.Response(status=204)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(came)

    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    for host, handler in (("127.0.0.1", prompt), ("127.0.0.2", silent)):
        app = web.Application()
        app.router.add_post("/{tail:.*}", handler)
        app.router.add_get("/", tell)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
    await asyncio.Event().wait()


class Client:
    """One key's calls."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str, port: int) -> None:
        self.http = http
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}"}
        self.port = port

    async def post(self, path: str, body: Json) -> Json:
        """Post a body and return the answer."""
        async with self.http.post(f"{self.url}{path}", json=body, headers=self.headers) as answer:
            found: Json = await answer.json()
            if answer.status >= 300:
                raise RuntimeError(f"{answer.status}: {found}")
            return found

    async def begin(self, webhook_url: str = "") -> str:
        """Send a background job of both engines; returns its id."""
        body: Json = {"model": "glowl", "input": QUESTION, "background": True, "hybrid": {"route": "deep"}}
        if webhook_url:
            body["metadata"] = {"webhook_url": webhook_url}
        return str((await self.post("/v1/responses", body))["id"])

    async def held_chat_s(self) -> float:
        """Ask and wait for the deep answer; returns how long that took."""
        began = time.perf_counter()
        messages = [{"role": "user", "content": QUESTION}]
        await self.post(
            "/v1/chat/completions",
            {"model": "glowl", "messages": messages, "hybrid": {"route": "deep"}},
        )
        return time.perf_counter() - began

    async def ended_at(self, job_id: str) -> float:
        """Wait until a job has ended; returns when that was."""
        async with aiohttp.ClientSession(trust_env=False, headers=self.headers) as http:
            return float((await ended(http, self.url, job_id))["completed_at"])

    async def came(self) -> list[tuple[str, float]]:
        """Return what the prompt receiver has got so far, and when."""
        async with self.http.get(f"http://127.0.0.1:{self.port}/") as answer:
            return [(each[0], each[1]) for each in await answer.json()]


async def chats(client: Client, number: int) -> list[float]:
    """Hold one chat after the other."""
    return [await client.held_chat_s() for _ in range(number)]


async def with_endpoints(client: Client, other: Client, endpoints: int, jobs: int) -> list[tuple[object, ...]]:
    """Hold chats while nothing else happens, and while the ends of jobs are told to many endpoints."""
    await chats(other, 5)
    rows: list[tuple[object, ...]] = [("nothing else", *_percents(await chats(other, 30)), "")]
    for number in range(endpoints):
        url = f"http://127.0.0.1:{client.port}/{number}"
        body = {"name": f"n{number}", "url": url, "event_types": ["response.completed"]}
        await client.post("/v1/webhook_endpoints", body)
    await asyncio.gather(*(client.begin() for _ in range(jobs)))
    began = time.perf_counter()
    taken: list[float] = []
    while len(await client.came()) < endpoints * jobs and time.perf_counter() - began < 90:
        taken.append(await other.held_chat_s())
    told = len(await client.came())
    rows.append(
        (f"{jobs} jobs, {endpoints} endpoints", *_percents(taken), f"{told} in {time.perf_counter() - began:.0f} s")
    )
    return rows


async def beside_silence(client: Client, other: Client, urls: int, jobs: int) -> list[tuple[object, ...]]:
    """Tell of jobs while many deliveries to one silent host are due."""
    rows: list[tuple[object, ...]] = []
    silent = [await client.begin(f"http://127.0.0.2:{client.port}/{number}") for number in range(urls)]
    for job_id in silent:
        await client.ended_at(job_id)
    for who, caller in (("the same key", client), ("another key", other)):
        ids = [await caller.begin(f"http://127.0.0.1:{caller.port}/{who[0]}") for _ in range(jobs)]
        ends = {job_id: await caller.ended_at(job_id) for job_id in ids}
        deadline = time.perf_counter() + 60
        delays: dict[str, float] = {}
        while len(delays) < jobs and time.perf_counter() < deadline:
            await asyncio.sleep(0.5)
            delays = {job_id: at - ends[job_id] for job_id, at in await caller.came() if job_id in ends}
        rows.append((who, f"{len(delays)} of {jobs}", *_percents(list(delays.values()))))
    return rows


async def beside_silent_names(names: int, fetches: int) -> list[tuple[object, ...]]:
    """Fetch while one owner sends names whose lookup takes long."""
    real = socket.getaddrinfo

    def play(host: Any, *args: Any, **more: Any) -> Any:
        if str(host).endswith(".silent"):
            time.sleep(_SILENT_S)
            raise socket.gaierror("nobody answers")
        return real("127.0.0.1" if str(host).endswith(".example") else host, *args, **more)

    async def prompt(_: web.Request) -> web.Response:
        return web.Response(body=b"picture", content_type="image/png")

    app = web.Application()
    app.router.add_get("/{tail:.*}", prompt)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    rows: list[tuple[object, ...]] = []
    socket.getaddrinfo = play
    try:
        async with SafeFetcher(Settings(allow_private_urls=True)) as fetcher:
            with fetching_for("ann"):
                flood = [asyncio.create_task(fetcher.get(f"http://n{n}.z{n}.silent/")) for n in range(names)]
            await asyncio.sleep(0.2)
            for who, owner, host in (
                ("another owner, a name", "bob", "a.example"),
                ("another owner, an address", "bob", "127.0.0.1"),
                ("the same owner, an address", "ann", "127.0.0.1"),
            ):
                taken, failed = [], 0
                with fetching_for(owner):
                    for _ in range(fetches):
                        began = time.perf_counter()
                        try:
                            await fetcher.get(f"http://{host}:{port}/a.png")
                        except FetchError:
                            failed += 1
                        taken.append(time.perf_counter() - began)
                rows.append((who, fetches, failed, *_percents(taken)))
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
    finally:
        socket.getaddrinfo = real
        await runner.cleanup()
    return rows


def _percents(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return ("", "", "")
    return (f"{1e3 * at_percent(values, 50):.0f}", f"{1e3 * at_percent(values, 99):.0f}", f"{1e3 * max(values):.0f}")


async def _measure(url: str, port: int, options: argparse.Namespace) -> None:
    head = ("P50, ms", "P99, ms", "slowest, ms")
    async with aiohttp.ClientSession(trust_env=False) as http:
        ann, bob = (Client(http, url, key, port) for key in _KEYS)
        rows = await with_endpoints(ann, bob, options.endpoints, options.jobs)
        table("A held chat of another key meanwhile", ("meanwhile", *head, "deliveries"), rows)
    async with aiohttp.ClientSession(trust_env=False) as http:
        ann, bob = (Client(http, url, key, port) for key in (_KEYS[1], "eve"))
        rows = await beside_silence(ann, bob, options.silent, 20)
        title = f"From a job's end to its webhook, while {options.silent} URLs of one silent host are due"
        table(title, ("whose", "told", *head), rows)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--silent", type=int, default=100, help="URLs of the silent host")
    parser.add_argument("--names", type=int, default=400, help="names that nobody answers for")
    parser.add_argument("--workers", nargs="+", default=["glm", "owl2", "light,webhooks"], help="queues of each worker")
    parser.add_argument("--receive", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        asyncio.run(receive(options.receive))
        return 0
    print_machine()
    port = free_port()
    env = {**NO_LIMIT, "GLOWL_API_KEYS": "ann,bob,eve"}
    stack = ProcessStack(workers=options.workers, delay_s=delay_for(0.1), env=env)
    stack.add_command("receiver", ["-m", "benchmarks.webhooks", "--receive", str(port)])
    try:
        stack.start()
        stack.wait_ready(*[name for name in stack.names if name != "receiver"])
        wait_until(lambda: _is_open(port), "the receiver")
        asyncio.run(_measure(stack.urls[0], port, options))
    finally:
        stack.stop()
    rows = asyncio.run(beside_silent_names(options.names, 50))
    title = f"Fetching while another owner sends {options.names} names that nobody answers for"
    table(title, ("whose, of what", "fetches", "failed", "P50, ms", "P99, ms", "slowest, ms"), rows)
    return 0


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    sys.exit(main())
