"""How much later the first visible text of a deep request comes than that of a fast one, asked the same question.

    python -m benchmarks.first_text                       # from the repository's root; --pocket for the real decoders

Both are streams of ``/v1/responses`` through the whole product as processes. A fast request shows GLM's answer; a deep
one shows GLM's draft first, as part of a job that is on record before the caller reads a word of it. Each caller sends
one and the other in turn and reads both to their end, so both meet the same machine in the same minute. Each pair has
a picture of its own, and who of the two comes first changes: what GLM keeps of a picture helps both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import statistics
import sys
import time
from typing import Any, Final, Literal

import aiohttp
import orjson
from PIL import Image

from benchmarks.printed import at_percent, print_machine, table
from router.cli.models import pocket_dir
from router.cli.samples import Sample, load_samples
from tests.support.stack import ProcessStack

Route = Literal["fast", "deep"]
_WORD_S: Final = 0.01
_WARM_UP: Final = 10
_MAX_TOKENS: Final = 12


def make_picture(sample: Sample, number: int) -> str:
    """Return a data URL of the sample's picture with a corner pixel that no other number has."""
    with Image.open(sample.pictures[0]) as picture:
        marked = picture.convert("RGB")
    marked.putpixel((0, 0), (255, number >> 8 & 255, number & 255))
    buffer = io.BytesIO()
    marked.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


async def first_text(http: aiohttp.ClientSession, url: str, question: str, picture: str, route: Route) -> float:
    """Return how many seconds after sending the first piece of text was there; reads the stream to its end."""
    content = [{"type": "input_image", "image_url": picture}, {"type": "input_text", "text": question}]
    body: dict[str, Any] = {
        "model": "glowl",
        "stream": True,
        "input": [{"role": "user", "content": content}],
        "max_output_tokens": _MAX_TOKENS,
        "hybrid": {"route": route},
    }
    data = orjson.dumps(body)
    began, first_s = time.perf_counter(), 0.0
    async with http.post(f"{url}/v1/responses", data=data) as answer:
        async for line in answer.content:
            if not first_s and line.startswith(b"event: response.output_text.delta"):
                first_s = time.perf_counter() - began
            elif line.startswith((b"event: response.failed", b"event: error")):
                raise RuntimeError((await answer.content.readline()).decode())
    if not first_s:
        raise RuntimeError("the stream ended without text")
    return first_s


async def measure(url: str, sample: Sample, pairs: int, side_by_side: int, start: int) -> dict[Route, list[float]]:
    """Return the times of both kinds."""
    times_s: dict[Route, list[float]] = {"fast": [], "deep": []}
    pictures = [make_picture(sample, start + number) for number in range(pairs)]
    orders: tuple[tuple[Route, Route], ...] = (("fast", "deep"), ("deep", "fast"))
    async with aiohttp.ClientSession(trust_env=False) as http:

        async def ask(caller: int) -> None:
            for number in range(caller, pairs, side_by_side):
                for route in orders[number // side_by_side % 2]:
                    times_s[route].append(await first_text(http, url, sample.question, pictures[number], route))

        await asyncio.gather(*(ask(caller) for caller in range(side_by_side)))
    return times_s


def start_stack(what: str, prefill_s: float) -> ProcessStack:
    """Start the product with engines of a kind: ``echo``, which begin to answer after a while, or ``pocket``."""
    stack = ProcessStack(workers=("owl2", "glm", "light,webhooks"), env={"GLOWL_ENGINE_TIMEOUT_S": "60"})
    for name in ("glm", "owl2"):
        socket = str(stack.dir / f"{name}.sock")
        if what == "echo":
            arguments = ["-m", "tests.support.echo_server", name, socket, str(_WORD_S), str(prefill_s)]
        else:
            arguments = ["-m", "engines.http.server", name, "--model", str(pocket_dir() / name), "--uds", socket]
        stack.add_command(name, arguments)
    stack.start()
    stack.wait_ready()
    return stack


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="fast and deep requests of each kind, per row")
    parser.add_argument("--side-by-side", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--prefill-ms", type=float, nargs="*", default=[50.0, 200.0], help="of the echo engine")
    parser.add_argument("--pocket", action="store_true", help="with the trained pocket checkpoints too")
    options = parser.parse_args()
    print_machine()
    sample = next(each for each in load_samples() if each.name == "colour")
    kinds = [("echo", prefill_ms / 1000) for prefill_ms in options.prefill_ms]
    rows = []
    for what, prefill_s in [*kinds, *([("pocket", 0.0)] if options.pocket else [])]:
        shown = f"echo, {1000 * prefill_s:g} ms of prefill" if what == "echo" else "pocket"
        stack = start_stack(what, prefill_s)
        try:
            asyncio.run(measure(stack.urls[0], sample, _WARM_UP, 2, 0))
            start = _WARM_UP
            for side_by_side in options.side_by_side:
                found = asyncio.run(measure(stack.urls[0], sample, options.pairs, side_by_side, start))
                start += options.pairs
                fast_s, deep_s = (statistics.median(found[route]) for route in ("fast", "deep"))
                tails = (f"{1e3 * at_percent(found[route], 95):.1f}" for route in ("fast", "deep"))
                middle = (f"{1e3 * fast_s:.1f}", f"{1e3 * deep_s:.1f}", f"{deep_s / fast_s:.2f}")
                rows.append((shown, side_by_side, len(found["fast"]), *middle, *tails))
                print(f"# {rows[-1]}", file=sys.stderr, flush=True)
        finally:
            stack.stop()
    table(
        "From sending until the first piece of text",
        ("engines", "side by side", "of each", "fast P50, ms", "deep P50, ms", "ratio", "fast P95, ms", "deep P95, ms"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
