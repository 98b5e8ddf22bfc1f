"""What a gateway adds: time, CPU and memory per request, with an upstream that answers at once.

    python -m benchmarks.gateway --litellm-python PATH --vllm-router PATH      # from the root; both optional

Ours, with everything on (policy, key, limits), without limits, and with nothing (a model is named, no key), beside a
bare FastAPI + httpx pass-through, raw ASGI + aiohttp, and what is installed of LiteLLM's proxy and vllm-router. All are
up at the same time and asked in turn, a slice of each row per round, so that all meet the same machine. CPU is that of
the gateway's processes, from ``/proc``, over all rounds. Added times are those of all rounds less the upstream's own
median. Each request has a number of its own in its question, so that no answer comes from a cache.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime
import io
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httptools
import orjson
import uvloop
from PIL import Image

from benchmarks.gateway_stack import KEY, NAMED, Gateway, Stack
from benchmarks.printed import at_percent, describe_machine, table

# About 1 KB of Chinese about nothing: the policy reads all of a question.
_TEXT: Final = (
    "请用一句话概括下面这段话（编号 {number}）。"
    "阳台上有两盆绿萝和一把藤椅，墙边放着浇花的水壶，玻璃门开着，风把白色的窗帘吹了起来。"
    "桌上的茶还冒着热气，旁边是一本翻开的旧书，书页已经发黄。楼下传来孩子们的笑声，一只花猫趴在窗台上打盹，尾巴偶尔动一动。"
    "远处的山被云遮住了一半，近处的屋顶上停着几只鸽子。邻居家的收音机里放着老歌，卖豆腐的吆喝声从巷子口飘过来。"
    "天色慢慢暗下去，路灯一盏接一盏亮了，饭菜的香味从各家的厨房里飘出来。母亲在屋里喊了一声，说汤已经好了，让大家洗手吃饭。"
    "我把书合上，给绿萝浇了最后一点水，关上玻璃门，拉好窗帘，屋里一下子安静下来，只剩下钟摆的声音。"
)
_NUMBER: Final = "00000000"
numbers: Final = iter(range(1, 10**8))
_HANG_S: Final = 60.0

# Of each kind more than anybody asks for here: what is measured is the counting.
LIMITS: Final = "requests=100m/min,pictures=100m/min,megapixels=100k/min,tokens=100m/min"


@dataclass(frozen=True)
class Case:
    """One kind of request.

    Attributes:
        name: shown.
        pictures: bytes of each.
    """

    name: str
    pictures: tuple[int, ...]


CASES: Final = (
    Case("text, 1 KB", ()),
    Case("a picture, 200 KB", (200_000,)),
    Case("3 pictures, 1 MB each", (1_000_000,) * 3),
)


@dataclass
class Row:
    """What the slices of one gateway, case, way and number of connections took.

    Attributes:
        times_s: of each request, to the last byte of its answer.
        wall_s: of all slices.
        cpu_s: of the gateway in them.
    """

    times_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Connection(asyncio.Protocol):
    """One client connection; sends a request when the answer to the last one is whole."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is awaited."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the gateway closed the connection"))

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Wake what waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    async def ask(self, request: list[bytes]) -> float:
        """Send a request; returns the seconds to the last byte of its answer.

        Raises:
            RuntimeError: if it is not 200, or is not the upstream's answer to its end.
        """
        self._body.clear()
        self._answer = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.writelines(request)  # type: ignore[attr-defined]
        async with asyncio.timeout(_HANG_S):
            await self._answer
        took_s = time.perf_counter() - began
        status = self._parser.get_status_code()
        if status != 200 or not ("茶".encode() in self._body or b"\\u8336" in self._body):
            raise RuntimeError(f"{status}: {bytes(self._body[-500:])!r}")
        return took_s


def _picture(num_bytes: int) -> str:
    """Return a data URL of noise, so that the file is about as large as its pixels."""
    side = round((num_bytes / 3) ** 0.5)
    noise = Image.frombytes("RGB", (side, side), random.Random(num_bytes).randbytes(3 * side * side))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG", compress_level=0)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_requests(gateway: Gateway, case: Case, *, is_streamed: bool) -> Callable[[int], list[bytes]]:
    """Return what makes the bytes of a request with a number."""
    text = _TEXT.format(number=_NUMBER)
    parts = [{"type": "image_url", "image_url": {"url": _picture(size)}} for size in case.pictures]
    body: dict[str, Any] = {
        "model": NAMED if gateway.model == "glowl" and len(parts) > 1 else gateway.model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}, *parts] if parts else text}],
        "max_tokens": 64,
        "stream": is_streamed,
    }
    head, tail = orjson.dumps(body).split(_NUMBER.encode(), 1)
    lines = {"host": f"127.0.0.1:{gateway.port}", "content-type": "application/json", **gateway.headers}
    lines["content-length"] = str(len(head) + len(_NUMBER) + len(tail))
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    start = f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n".encode() + head
    return lambda number: [start, b"%08d" % number, tail]


async def measure(
    gateway: Gateway, row: Row, make: Callable[[int], list[bytes]], connections: int, slice_s: float
) -> None:
    """Ask over so many connections for so long, and add what that took to the row."""
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(Connection, "127.0.0.1", gateway.port))[1] for _ in range(connections)]

    async def ask(connection: Connection) -> None:
        while time.perf_counter() < began + slice_s:
            row.times_s.append(await connection.ask(make(next(numbers))))

    await made[0].ask(make(next(numbers)))
    cpu_s, began = gateway.cpu_s(), time.perf_counter()
    await asyncio.gather(*(ask(connection) for connection in made))
    row.wall_s += time.perf_counter() - began
    row.cpu_s += gateway.cpu_s() - cpu_s
    for connection in made:
        connection.transport.close()


def compare(stack: Stack, cases: list[Case], options: argparse.Namespace) -> dict[str, int]:
    """Measure all gateways in all ways and print the tables; returns the most memory each had between two slices."""
    most = {gateway.name: gateway.idle_bytes for gateway in stack.gateways}
    for case in cases:
        for is_streamed in (False, True):
            for number in options.connections:
                rows = {gateway.name: Row() for gateway in (stack.direct, *stack.gateways)}
                for _ in range(options.rounds):
                    for gateway in (stack.direct, *stack.gateways):
                        make = make_requests(gateway, case, is_streamed=is_streamed)
                        uvloop.run(measure(gateway, rows[gateway.name], make, number, options.slice_s))
                        most[gateway.name] = max(most.get(gateway.name, 0), gateway.rss_bytes())
                _print(case, is_streamed, number, rows, stack.direct.name)
    return most


def _print(case: Case, is_streamed: bool, connections: int, rows: dict[str, Row], direct: str) -> None:
    base_s = at_percent(rows[direct].times_s, 50)
    shown = []
    for name, row in rows.items():
        count = len(row.times_s)
        added = [f"{1000 * (at_percent(row.times_s, each) - base_s):.2f}" for each in (50, 95, 99)]
        if name == direct:
            added = [f"({1000 * at_percent(row.times_s, each):.2f})" for each in (50, 95, 99)]
        shown.append([name, count, f"{1000 * row.cpu_s / count:.2f}", *added, f"{count / row.wall_s:.0f}"])
    way = "streamed" if is_streamed else "plain"
    title = f"{case.name}, {way}, {connections} connection{'s' * (connections > 1)}"
    table(title, ["gateway", "requests", "CPU ms", "added P50 ms", "P95", "P99", "requests/s"], shown)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm-python", type=Path, help="the python of an environment with litellm[proxy]")
    parser.add_argument("--vllm-router", type=Path, help="the command of that name, from an environment of its own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice-s", type=float, default=1.0, help="how long each gateway is asked per row and round")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--cases", nargs="+", default=[""], help="parts of the names of cases; all without")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of gateways; all without")
    options = parser.parse_args()
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout
    print(f"python -m benchmarks.gateway {' '.join(sys.argv[1:])}")
    print(f"{datetime.date.today()}, revision {revision.strip()}; {describe_machine()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="glowl-g") as folder:
        stack = Stack(Path(folder), options.only)
        try:
            stack.add_ours(
                "ours, everything on",
                {"GLOWL_API_KEYS": KEY, "GLOWL_LIMITS": LIMITS},
                model="glowl",
                headers={"authorization": f"Bearer {KEY}"},
            )
            stack.add_ours(
                "ours, no limits",
                {"GLOWL_API_KEYS": KEY},
                model="glowl",
                headers={"authorization": f"Bearer {KEY}"},
            )
            stack.add_ours("ours, nothing on", {})
            stack.add_peer("FastAPI + httpx", "fastapi")
            stack.add_peer("raw ASGI + aiohttp", "asgi")
            if options.litellm_python:
                stack.add_litellm(options.litellm_python)
            if options.vllm_router:
                stack.add_vllm_router(options.vllm_router)
            cases = [case for case in CASES if any(part in case.name for part in options.cases)]
            most = compare(stack, cases, options)
            rows = [
                [each.name, f"{each.boot_s:.1f}", f"{each.idle_bytes / 1e6:.0f}", f"{most[each.name] / 1e6:.0f}"]
                for each in stack.gateways
            ]
            table("Start and memory", ["gateway", "boot s", "idle MB", "most MB"], rows)
        finally:
            stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
