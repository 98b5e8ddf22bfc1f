"""What one request, or one client, that is made to be costly costs everybody else.

    python -m benchmarks.bombs                              # from the repository's root; --only NAME for one of them

For each bomb a fresh api with echo engines; another process throws the bomb. Meanwhile one client asks ``/healthz``
every 20 ms (the longest time that one of them took, less the usual time, is the longest stop of the event loop), and
another asks a short question on the fast route every 100 ms. Memory is the api process' resident memory, looked at
every 20 ms, over what it was before. Processor time is the api's, less what it needs for as many questions without a
bomb: on a busy machine it is the measure to trust, since the loop cannot have stopped for longer of its own doing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import io
import selectors
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import orjson
from PIL import Image

from benchmarks.printed import at_percent, print_machine, table
from tests.support.stack import ProcessStack

MB = 1_000_000
CHAT = "/v1/chat/completions"
QUESTION = {"model": "glm-4.6v-flash", "messages": [{"role": "user", "content": "你好"}]}
# A service that has not answered by then is counted as stopped.
GIVE_UP_S = 60.0
# At least so long, so that enough questions are asked meanwhile.
WATCH_S = 6.0


def ask(content: object, **fields: object) -> bytes:
    """Return the body of a chat."""
    return orjson.dumps({"model": "glm-4.6v-flash", "messages": [{"role": "user", "content": content}], **fields})


def picture(data: bytes, media_type: str) -> dict[str, object]:
    """Return a content part."""
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def schema() -> bytes:
    """40 definitions, each the next one or a list of it: 2**40 paths."""
    definitions = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}}]}
        for n in range(40)
    }
    root = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "required": ["a"], "$defs": definitions}
    root["$defs"] = {**definitions, "d40": {"type": "string"}}
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": root}}
    return ask("你好", response_format=response_format)


def scans() -> bytes:
    """A progressive JPEG whose last scan is there 3,000 times: 200 to 400 kB, each scan over all blocks."""
    buffer = io.BytesIO()
    Image.effect_noise((1024, 1024), 3).save(buffer, "JPEG", progressive=True, quality=5)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    scan = scan[: 2 + int.from_bytes(scan[2:4])]  # its header, and no data: a decoder still goes over all blocks
    return ask([picture(data[:-2] + scan * 3000 + data[-2:], "image/jpeg"), {"type": "text", "text": "图里有什么？"}])


def parts() -> bytes:
    """300,000 content parts in 8 MB."""
    return ask([{"type": "text", "text": "a"}] * 300_000)


def messages() -> bytes:
    """60 MB of messages."""
    return orjson.dumps({**QUESTION, "messages": [{"role": "user", "content": "a"}] * (60 * MB // 31)})


def text() -> bytes:
    """One text of 50 MB without a space."""
    return ask("字" * (50 * MB // 3))


def percent() -> bytes:
    """60 MB of base64 in which every letter is written as %41."""
    url = "data:image/png;base64," + "%41" * (20 * MB)
    return ask([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "图里有什么？"}])


def names() -> bytes:
    """16 pictures whose hosts do not exist."""
    urls = [f"http://host-{n}.bomb.invalid/a.png" for n in range(16)]
    return ask([*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": "图？"}])


@dataclass
class Bomb:
    """One way to be costly.

    Attributes:
        about: for the table.
        body: makes what is sent.
        copies: how many are sent side by side.
        sent: which part of the body is sent before the client goes silent; 1 waits for the answer.
        headers: sent with it.
        readers: how many read streams that are being written, at most 64 one of them, instead.
    """

    about: str
    body: Callable[[], bytes]
    copies: int = 1
    sent: float = 1.0
    headers: Sequence[str] = field(default=())
    readers: int = 0


BOMBS = {
    "nothing": Bomb("nothing, to compare with", lambda: orjson.dumps(QUESTION)),
    "schema": Bomb("a JSON Schema of 4 KB with 2^40 paths", schema),
    "scans": Bomb("a progressive JPEG with 3,000 scans", scans),
    "parts": Bomb("300,000 content parts, 8 MB", parts),
    "messages": Bomb("2 million messages, 60 MB", messages),
    "text": Bomb("one text of 50 MB", text),
    "percent": Bomb("percent-encoded base64, 60 MB", percent),
    "names": Bomb("50 requests, each of 16 names that do not resolve", names, copies=50),
    "gzip": Bomb(
        "1 GB of zeros in 1 MB of gzip", lambda: gzip.compress(bytes(1000 * MB)), headers=("Content-Encoding: gzip",)
    ),
    "half": Bomb("40 bodies of 50 MB, half sent", lambda: ask([picture(bytes(37 * MB), "image/png")]), 40, 0.5),
    "heads": Bomb("900 connections with half a head", lambda: b"", 900, 0.0),
    "readers64": Bomb("64 readers of one stream, 50 words a second", lambda: b"", readers=64),
    "readers256": Bomb("256 readers of 4 such streams", lambda: b"", readers=256),
    "readers300": Bomb("300 readers of one such stream", lambda: b"", readers=300),
}
# Of Owl2, which nobody else asks here.
WORD_S = 0.02
NUM_WORDS = 400
READERS_A_STREAM = 64


def read_streams(num_readers: int, port: int, *, of_one: bool) -> str:
    """Read streams to their ends, all at once; returns how many got theirs whole and what the others were told."""
    body = orjson.dumps({"model": "mplug-owl2", "input": "word " * NUM_WORDS, "background": True})
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    ids = []
    for _ in range(1 if of_one else -(-num_readers // READERS_A_STREAM)):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/responses", body)
        with urllib.request.urlopen(request) as answer:
            ids.append(orjson.loads(answer.read())["id"])
    open_ones = selectors.DefaultSelector()
    for number in range(num_readers):
        sock = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S)
        path = f"/v1/responses/{ids[number % len(ids)]}?stream=true"
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        open_ones.register(sock, selectors.EVENT_READ, bytearray())
    ends: Counter[str] = Counter()
    while open_ones.get_map() and time.monotonic() - began < GIVE_UP_S:
        for key, _ in open_ones.select(1.0):
            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            key.data.extend(data)
            if not data:
                open_ones.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                is_whole = b"event: response.completed" in key.data
                ends["whole" if is_whole else key.data.split(b" ", 2)[1].decode()] += 1
    ends["not ended"] += len(open_ones.get_map())
    told = ", ".join(f"{count} x {end}" for end, count in sorted((+ends).items()))
    return f"{told} after {time.monotonic() - began:.1f} s"


def throw(bomb: Bomb, port: int) -> str:
    """Send a bomb; returns the status of its first answer."""
    if bomb.readers:
        return read_streams(bomb.readers, port, of_one=bomb.readers > 256)
    body = bomb.body()
    head = [f"POST {CHAT} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
    head += [f"Content-Length: {len(body)}", "Content-Type: application/json", *bomb.headers]
    start = "\r\n".join(head).encode() + (b"\r\n\r\n" if bomb.sent else b"")
    answers: list[str] = []
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()

    def send() -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S) as sock:
                sock.sendall(start + body[: int(len(body) * bomb.sent)])
                status = sock.recv(64).split(b" ", 2)[1:2]
                answers.append(status[0].decode() if status else "closed")
        except TimeoutError:
            answers.append("none")
        except OSError:
            answers.append("cut")

    threads = [threading.Thread(target=send) for _ in range(bomb.copies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = {each: answers.count(each) for each in sorted(set(answers))}
    told = ", ".join(f"{number} x {status}" if bomb.copies > 1 else status for status, number in counted.items())
    return f"{told} after {time.monotonic() - began:.1f} s"


@dataclass
class Watch:
    """What others saw: milliseconds of every look, and what it cost the api."""

    health_ms: list[float] = field(default_factory=list)
    fast_ms: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    cpu_s: float = 0.0
    num_asked: int = 0
    num_failed: int = 0


async def look(http: aiohttp.ClientSession, watch: Watch, times_ms: list[float], url: str, body: bytes | None) -> None:
    """Ask once and note how long it took."""
    began = time.perf_counter()
    try:
        async with http.request("POST" if body else "GET", url, data=body) as answer:
            await answer.read()
            watch.num_failed += answer.status != 200
    except (TimeoutError, aiohttp.ClientError):
        watch.num_failed += 1
    times_ms.append(1000 * (time.perf_counter() - began))


async def keep_looking(every_s: float, until: asyncio.Event, look_once: Callable[[], object]) -> None:
    """Look at fixed times, whether the looks before have ended or not."""
    tasks = []
    while not until.is_set():
        tasks.append(asyncio.ensure_future(look_once()))  # type: ignore[arg-type]
        await asyncio.sleep(every_s)
    await asyncio.gather(*tasks)


async def watch_while(stack: ProcessStack, thrower: subprocess.Popen[str]) -> tuple[Watch, str]:
    """Watch the api until the bomb has been answered and things are as before."""
    url, watch, over = stack.urls[0], Watch(), asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
    async with aiohttp.ClientSession(trust_env=False, timeout=timeout) as http:
        question = orjson.dumps(QUESTION)
        for _ in range(5):  # connections are made, code is loaded
            await look(http, Watch(), [], url + CHAT, question)
        before = stack.rss_bytes("api0")

        async def remember() -> None:
            watch.peak_bytes = max(watch.peak_bytes, stack.rss_bytes("api0") - before)

        lookers = [
            keep_looking(0.02, over, lambda: look(http, watch, watch.health_ms, url + "/healthz", None)),
            keep_looking(0.1, over, lambda: look(http, watch, watch.fast_ms, url + CHAT, question)),
            keep_looking(0.02, over, remember),
        ]
        running = [asyncio.ensure_future(each) for each in lookers]
        await asyncio.sleep(0.5)
        assert thrower.stdin is not None
        assert thrower.stdout is not None
        thrower.stdin.write("go\n")
        thrower.stdin.flush()
        began, cpu_s, num_asked = time.monotonic(), stack.cpu_s("api0"), len(watch.fast_ms)
        told = await asyncio.to_thread(thrower.stdout.readline)
        await asyncio.sleep(max(WATCH_S - (time.monotonic() - began), 1.0))
        watch.cpu_s, watch.num_asked = stack.cpu_s("api0") - cpu_s, len(watch.fast_ms) - num_asked
        over.set()
        await asyncio.gather(*running)
    return watch, told.strip()


def run(only: Sequence[str]) -> Iterator[list[object]]:
    """Throw the bombs, one after the other."""
    stack = ProcessStack(delay_s={"owl2": WORD_S})
    stack.start()
    stack.wait_ready()
    usual: float | None = None  # of a question, without a bomb
    try:
        for name in only:
            stack.kill("api0")
            stack.start("api0")
            stack.wait_ready("api0")
            argv = [sys.executable, "-m", "benchmarks.bombs", "--throw", name, "--port", str(stack.ports[0])]
            with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as thrower:
                assert thrower.stdout is not None
                thrower.stdout.readline()
                watch, told = asyncio.run(watch_while(stack, thrower))
            slowest = max(watch.health_ms) - at_percent(watch.health_ms, 50)
            usual = watch.cpu_s / max(watch.num_asked, 1) if usual is None else usual
            cost_s = max(watch.cpu_s - usual * watch.num_asked, 0.0)
            row = [BOMBS[name].about, f"{1000 * cost_s:.0f}", f"{slowest:.0f}", f"{watch.peak_bytes / 1e6:.0f}"]
            row += [f"{at_percent(watch.fast_ms, percent):.0f}" for percent in (50, 99)]
            print(f"{name}: {row[1:]} {told}", file=sys.stderr)
            yield [*row, watch.num_failed, told]
    finally:
        stack.stop()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BOMBS, default=list(BOMBS))
    parser.add_argument("--throw", choices=BOMBS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.throw:
        print(throw(BOMBS[arguments.throw], arguments.port), flush=True)
        return
    print_machine()
    head = (
        "bomb",
        "processor, ms",
        "loop stopped, ms",
        "memory, MB",
        "others' P50, ms",
        "P99, ms",
        "failed",
        "the bomb's own answer",
    )
    table("What others felt", head, list(run(["nothing", *(each for each in arguments.only if each != "nothing")])))


if __name__ == "__main__":
    main()
