"""Three machines as network namespaces: the api and redis on one, engines and a worker on each of the two others.

    python -m benchmarks.two_hosts --rounds 6 --out benchmarks/results/two_hosts.md    # repository's root, as root

In each round the cable of one worker's machine is pulled under load for ``--cut`` seconds and put in again. Every
accepted job completes, and ends once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import redis

from benchmarks.accepted import load, settle
from benchmarks.printed import describe_machine
from engines.http.server import listening
from router.cli.redis_server import find_redis
from tests.support.echo_server import SlowEcho
from tests.support.servers import Process, wait_until

HEAD = ("round", "cut off", "accepted", "completed", "other ends", "ended more than once", "units begun again")
HEAD += ("503", "longest time without an accepted job, s", "findings")
SWITCH = "glowl-net"
HOSTS = {"glowl-a": "10.77.0.1", "glowl-b": "10.77.0.2", "glowl-c": "10.77.0.3"}
PORTS = {"glm": 8101, "owl2": 8102}
PASSWORD = "two-hosts"

_HOW_TO_READ = """
How to read it. The namespaces are joined by a bridge in a fourth one; to cut a machine off, the far end of its cable is
set down, so that what is sent is lost and nobody is told. What it was doing is begun again on the other machine after
the lease of 5 s; its own late writes are refused by their epoch, so each job has one end. Engines say a
word each 20 ms.
"""


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def build() -> None:
    """Make the machines and their cables."""
    for name in (SWITCH, *HOSTS):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", SWITCH, "link", "add", "br0", "type", "bridge")
    ip("-n", SWITCH, "link", "set", "br0", "up")
    for name, address in HOSTS.items():
        ip("-n", SWITCH, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", SWITCH, "link", "set", name, "master", "br0", "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")


def remove() -> None:
    """Forget them."""
    for name in (SWITCH, *HOSTS):
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


class Machines:
    """What runs on them."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="glowl-h"))
        self.url = f"http://{HOSTS['glowl-a']}:8000"
        self.redis_url = f"redis://:{PASSWORD}@{HOSTS['glowl-a']}:6379/0"
        workers = [address for name, address in HOSTS.items() if name != "glowl-a"]
        self._env = {
            "REDIS_URL": self.redis_url,
            "GLOWL_HOST": HOSTS["glowl-a"],
            "GLOWL_INSECURE": "1",
            "GLOWL_ALLOWED_HOSTS": "*",
            "GLOWL_DATA_DIR": str(self.dir),
            "GLOWL_LOG_LEVEL": "WARNING",
            "GLOWL_CACHE_BYTES": "0",
            "GLOWL_MAX_UNFINISHED_JOBS": "100000",
            **{f"GLOWL_{name.upper()}_URL": self._engines(name, workers) for name in PORTS},
        }
        self._processes: list[Process] = []

    @staticmethod
    def _engines(name: str, workers: list[str]) -> str:
        return ",".join(f"http://{address}:{PORTS[name]}" for address in workers)

    def start(self) -> None:
        """Start all, and wait until the api finds them."""
        binary, python = str(find_redis({}).binary), sys.executable
        redis_argv = [
            binary,
            "--bind",
            HOSTS["glowl-a"],
            "--requirepass",
            PASSWORD,
            "--dir",
            str(self.dir),
            "--save",
            "",
        ]
        self._run("glowl-a", "redis", [*redis_argv, "--appendonly", "yes", "--appendfsync", "always"])
        wait_until(self._redis_answers, "redis")
        for host, address in HOSTS.items():
            if host == "glowl-a":
                self._run(host, "api", [python, "-m", "router.cli", "api"])
                continue
            for name, port in PORTS.items():
                self._run(host, name, [python, "-m", "benchmarks.two_hosts", "--engine", name, address, str(port)])
            ready = str(self.dir / f"{host}.ready")
            self._run(host, "worker", [python, "-m", "router.cli", "worker", "--ready-file", ready])
        wait_until(self._is_ready, f"the api, see {self.dir}")

    def stop(self) -> None:
        """End all."""
        for process in reversed(self._processes):
            process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def count_ends(self, job_id: str) -> tuple[int, int]:
        """How often a job ended, and how many of its units were begun again."""
        with redis.Redis.from_url(self.redis_url) as client:
            events: Any = client.xrange(f"glowl:events:{job_id}")
        started = [fields[b"u"] for _, fields in events if fields[b"k"] == b"started"]
        return sum(fields[b"k"] == b"end" for _, fields in events), len(started) - len(set(started))

    def _run(self, host: str, name: str, argv: list[str]) -> None:
        # Joined, not wrapped in a shell: what is killed is the program itself.
        argv = ["ip", "netns", "exec", host, *argv]
        self._processes.append(Process(argv, self.dir / f"{host}-{name}.log", self._env))

    def _redis_answers(self) -> bool:
        with redis.Redis.from_url(self.redis_url, socket_timeout=2) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and all((self.dir / f"{host}.ready").exists() for host in list(HOSTS)[1:])


def run_round(machines: Machines, number: int, options: argparse.Namespace) -> list[object]:
    """Do one; returns the cells of its row."""
    victim = list(HOSTS)[1 + number % 2]

    async def hurt() -> None:
        await asyncio.sleep(3.0)
        await asyncio.to_thread(ip, "-n", SWITCH, "link", "set", victim, "down")
        await asyncio.sleep(options.cut)
        await asyncio.to_thread(ip, "-n", SWITCH, "link", "set", victim, "up")
        await asyncio.sleep(5.0)

    account = asyncio.run(load([machines.url], hurt, num_callers=options.callers, pause_s=options.pause))
    states = asyncio.run(settle(machines.url, account, timeout_s=300))
    counts = [machines.count_ends(job_id) for job_id in account.accepted.values()]
    twice = sum(ends > 1 for ends, _ in counts)
    for finding in account.wrong[:20]:
        print("finding:", finding, flush=True)
    others = ", ".join(f"{count} {state}" for state, count in states.items() if state != "completed")
    cells: list[object] = [number, victim, len(account.accepted), states.get("completed", 0), others or 0, twice]
    cells += [sum(again for _, again in counts), account.refused.get(503, 0)]
    return [*cells, f"{account.longest_gap_s:.1f}", len(account.wrong) + twice]


async def serve_engine(name: str, host: str, port: int) -> None:
    """Be an echo engine that takes its time, until killed."""
    async with listening(SlowEcho(name, 0.02, 0.0, 0.0, {}), host=host, port=port):
        await asyncio.Event().wait()


def run(options: argparse.Namespace) -> int:
    """Do all rounds; in the namespace of the api."""
    machine = describe_machine()
    command = f"python -m benchmarks.two_hosts --rounds {options.rounds} --cut {options.cut:g}"
    rows = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    print(machine, *rows, sep="\n", flush=True)
    machines, num_findings = Machines(), 0
    try:
        machines.start()
        for number in range(1, options.rounds + 1):
            cells = run_round(machines, number, options)
            num_findings += int(str(cells[-1]))
            rows.append(f"| {' | '.join(map(str, cells))} |")
            print(rows[-1], flush=True)
            if options.out:
                head = "# Three machines, one of them cut off"
                parts = (head, f"`{command}`", machine, "\n".join(rows), _HOW_TO_READ.strip())
                options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    finally:
        machines.stop()
    return 1 if num_findings else 0


def main() -> int:
    """Make the machines, and run the rounds on the first of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cut", type=float, default=15.0, help="how long a machine is cut off, s")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.1, help="of a caller between two jobs, s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table here too")
    parser.add_argument("--engine", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.engine:
        name, host, port = options.engine
        asyncio.run(serve_engine(name, host, int(port)))
    if options.inside:
        return run(options)
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("not run: network namespaces need root and the command `ip`", file=sys.stderr)
        return 2
    try:
        build()
    except subprocess.CalledProcessError as error:
        remove()
        print(f"not run: no network namespaces here: {error.stderr.strip()}", file=sys.stderr)
        return 2
    try:
        inside = ["ip", "netns", "exec", "glowl-a", sys.executable, "-m", "benchmarks.two_hosts", "--inside"]
        running = subprocess.Popen([*inside, *sys.argv[1:]])
        try:
            return running.wait()
        finally:
            running.terminate()  # so that it ends what it has started
            running.wait()
    finally:
        remove()


if __name__ == "__main__":
    sys.exit(main())
