"""What an answer costs that is given again, beside one that the engine makes: time, and processor time.

    python -m benchmarks.cache                            # from the repository's root

Both are ``POST /v1/responses`` through the whole product as processes, with the trained pocket GLM on the CPU. In turn,
a block of questions about pictures that nobody has sent, and a block of the same ones again; the second block is hits.
Once with answers that are stored, and so recorded in redis, whose file is synced at each write; once with answers that
are not. So both meet the same machine in the same minute. Processor time is of the api, the engine and redis together.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.first_text import make_picture
from benchmarks.printed import at_percent, print_machine, table
from router.cli.models import pocket_dir
from router.cli.samples import load_samples
from tests.support.stack import ProcessStack

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_KINDS: Final = ("stored", "not stored")
_PROCESSES: Final = ("api0", "glm", "redis")


def cpu_s(stack: ProcessStack) -> float:
    """Return the processor time that the processes have used so far, seconds."""
    total = 0.0
    for name in _PROCESSES:
        fields = Path(f"/proc/{stack.processes[name].child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * _TICK_S
    return total


def ask(http: httpx.Client, question: str, picture: str, expected: str, *, is_stored: bool) -> float:
    """Return how many seconds an answer took; its ``x-glowl-cache`` must be as expected."""
    content = [{"type": "input_image", "image_url": picture}, {"type": "input_text", "text": question}]
    body: dict[str, Any] = {"model": "glowl", "input": [{"role": "user", "content": content}], "store": is_stored}
    body["hybrid"] = {"route": "fast", "cache": True}
    began = time.perf_counter()
    response = http.post("/v1/responses", json=body)
    took_s = time.perf_counter() - began
    response.raise_for_status()
    if response.headers.get("x-glowl-cache") != expected:
        raise RuntimeError(f"{response.headers.get('x-glowl-cache')} where {expected} was expected")
    return took_s


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=4, help="of misses and of hits")
    parser.add_argument("--size", type=int, default=50, help="questions in a block")
    parser.add_argument("--repeats", type=int, default=4, help="times that a block of hits is asked, to be measurable")
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=_KINDS)
    options = parser.parse_args()
    print_machine()
    sample = next(each for each in load_samples() if each.name == "colour")
    folder = pocket_dir() / "glm"
    stack = ProcessStack(checkpoints={"glm": folder}, env={"GLOWL_CACHE_BYTES": str(64 * 1024 * 1024)})
    stack.start()
    rows = []
    try:
        stack.wait_ready()
        with httpx.Client(base_url=stack.urls[0], timeout=60, trust_env=False) as http:
            for number in range(5):
                ask(http, sample.question, make_picture(sample, 60_000 + number), "miss", is_stored=True)
            for kind in options.kinds:
                times_s: dict[str, list[float]] = {"miss": [], "hit": []}
                spent_s = {"miss": 0.0, "hit": 0.0}
                for block in range(options.blocks):
                    first = (block + (0 if kind == "stored" else options.blocks)) * options.size
                    pictures = [make_picture(sample, first + number) for number in range(options.size)]
                    for status, repeats in (("miss", 1), ("hit", options.repeats)):
                        before_s = cpu_s(stack)
                        for _ in range(repeats):
                            times_s[status] += [
                                ask(http, sample.question, picture, status, is_stored=kind == "stored")
                                for picture in pictures
                            ]
                        spent_s[status] += cpu_s(stack) - before_s
                wall_ms = {status: 1e3 * statistics.median(found) for status, found in times_s.items()}
                cpu_ms = {status: 1e3 * spent_s[status] / len(times_s[status]) for status in spent_s}
                for status in ("miss", "hit"):
                    tail_ms = 1e3 * at_percent(times_s[status], 95)
                    wall = (f"{wall_ms[status]:.2f}", f"{wall_ms['miss'] / wall_ms[status]:.1f}", f"{tail_ms:.2f}")
                    cpu = (f"{cpu_ms[status]:.2f}", f"{cpu_ms['miss'] / cpu_ms[status]:.1f}")
                    rows.append((kind, status, len(times_s[status]), *wall, *cpu))
                    print(f"# {rows[-1]}", file=sys.stderr, flush=True)
    finally:
        stack.stop()
    table(
        "An answer that is made, and one that is given again",
        ("answers are", "answer", "number", "P50, ms", "faster", "P95, ms", "CPU, ms", "cheaper"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
