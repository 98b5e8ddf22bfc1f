"""The CPU that the gateway takes per request, as a multiple of a bare pass-through's, on a machine that is busy too.

    python -m benchmarks.gateway_cpu                              # from the root
    python -m benchmarks.gateway_cpu --checkouts /path/before .   # two states of the code, side by side

Requests are sent one after another over one connection, to each server in turn; all meet the same machine. CPU is that
of the servers' processes in nanoseconds, from ``/proc/PID/task/*/schedstat``, of a few requests at a time: where other
processes take the caches away, a request costs twice as much, so the tenth of the samples with the least of that is
what can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.gateway import CASES, Case, Connection, make_requests, numbers
from benchmarks.gateway_stack import KEY, NAMED, Gateway, Stack
from benchmarks.printed import at_percent, describe_machine, table

_RAW: Final = "raw ASGI + aiohttp"
# Samples of a round, by the case's number, and requests of a sample.
_SAMPLES: Final = (40, 20, 6)
_SAMPLE: Final = 3
_WARM_UP: Final = 300


def cpu_ms(gateway: Gateway) -> float:
    """CPU milliseconds that its processes have used so far, all threads."""
    tasks = [path for pid in gateway.pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(path.read_text().split()[0]) for path in tasks) / 1e6


async def ask(gateway: Gateway, case: Case, count: int, *, is_streamed: bool) -> list[float]:
    """Take so many samples; returns the CPU milliseconds of a request in each."""
    make = make_requests(gateway, case, is_streamed=is_streamed)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", gateway.port)
    await connection.ask(make(next(numbers)))
    found = []
    for _ in range(count):
        began_ms = cpu_ms(gateway)
        for _ in range(_SAMPLE):
            await connection.ask(make(next(numbers)))
        found.append((cpu_ms(gateway) - began_ms) / _SAMPLE)
    connection.transport.close()
    return found


def add_ours(stack: Stack, checkouts: list[Path], env: dict[str, str]) -> None:
    """Start the api of each checkout with everything on: policy, a key; and with nothing on."""
    for checkout in checkouts:
        name = f" ({checkout})" if len(checkouts) > 1 else ""
        headers = {"authorization": f"Bearer {KEY}"}
        stack.add_ours(
            f"ours, everything on{name}",
            {"GLOWL_API_KEYS": KEY, **env},
            checkout=checkout,
            model="glowl",
            headers=headers,
        )
        stack.add_ours(f"ours, nothing on{name}", env, checkout=checkout, model=NAMED)


def compare(stack: Stack, cases: list[Case], rounds: int) -> None:
    """Print a table of each case and way."""
    for gateway in stack.gateways:
        for is_streamed in (False, True):
            uvloop.run(ask(gateway, CASES[0], _WARM_UP // _SAMPLE, is_streamed=is_streamed))
    for case in cases:
        for is_streamed in (False, True):
            count = _SAMPLES[CASES.index(case)]
            found: dict[str, list[float]] = {gateway.name: [] for gateway in stack.gateways}
            for _ in range(rounds):
                for gateway in stack.gateways:
                    found[gateway.name] += uvloop.run(ask(gateway, case, count, is_streamed=is_streamed))
            least = {name: at_percent(each, 10) for name, each in found.items()}
            rows = [
                [name, f"{least[name]:.3f}", f"{at_percent(each, 50):.3f}", f"{least[name] / least[_RAW]:.2f}"]
                for name, each in found.items()
            ]
            way = "streamed" if is_streamed else "plain"
            table(f"{case.name}, {way}", ["gateway", "CPU ms, least tenth", "median", f"times {_RAW}"], rows)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkouts", type=Path, nargs="+", default=[Path()], help="of ours; default: this one")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cases", nargs="+", default=[""], help="parts of the names of cases; all without")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of gateways; all without")
    parser.add_argument("--env", nargs="+", default=[], help="NAME=VALUE for ours")
    options = parser.parse_args()
    print(f"python -m benchmarks.gateway_cpu {' '.join(sys.argv[1:])}\n{describe_machine()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="glowl-g") as folder:
        stack = Stack(Path(folder), [*options.only, _RAW] if options.only else [])
        try:
            stack.add_peer(_RAW, "asgi")
            add_ours(stack, options.checkouts, dict(each.split("=", 1) for each in options.env))
            cases = [case for case in CASES if any(part in case.name for part in options.cases)]
            compare(stack, cases, options.rounds)
            rows = [[each.name, f"{each.boot_s:.1f}", f"{each.idle_bytes / 1e6:.0f}"] for each in stack.gateways]
            table("Start and memory", ["gateway", "boot s", "idle MB"], rows)
        finally:
            stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
