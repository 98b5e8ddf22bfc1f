"""Whether eight api processes with one key admit exactly the limit, also if one is killed in the middle.

    python -m benchmarks.rate_limits_apis [--apis N] [--calls N] [--per-minute N]

In: nothing. Out: a Markdown table. Real processes: redis, an echo engine, the apis. Each api gets its share of the
calls, four at a time, and the last api is killed with -9 after a quarter of all answers. Compared are the ledger in
redis, the answers, and what the limit allows from the first charge to the last; a bucket is filled again with the
charges on record to see whether any of them was one too many. `tests/journeys/test_limits_of_apis.py` is a small one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform

from router.auth.key_text import digest_of
from router.auth.records import configured_owner
from router.limits.limits import Limits
from tests.support.limited_calls import Tally, call_all, read_ledger
from tests.support.stack import ProcessStack

KEY = "one-key-for-all"


def run(num_apis: int, num_calls: int, per_minute: int) -> Tally:
    """Start the processes, send the calls, and read the ledger."""
    limits = Limits(requests_per_minute=per_minute, tokens_per_minute=100_000_000)
    env = {"GLOWL_API_KEYS": KEY, "GLOWL_LIMITS": str(limits)}
    stack = ProcessStack(num_apis=num_apis, workers=(), env=env)
    try:
        stack.start()
        stack.wait_ready()
        calls = call_all(
            stack,
            KEY,
            num_each=num_calls // num_apis,
            num_at_once=4,
            kill=f"api{num_apis - 1}",
            kill_after=num_calls // 4,
        )
        tally = asyncio.run(calls)
        read_ledger(stack, tally, configured_owner(digest_of(KEY)), limits)
        return tally
    finally:
        stack.stop()


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apis", type=int, default=8)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--per-minute", type=int, default=1000)
    arguments = parser.parse_args()
    tally = run(arguments.apis, arguments.calls, arguments.per_minute)
    span_s = (tally.charged_at_us[-1] - tally.charged_at_us[0]) / 1e6
    print(
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}; {arguments.apis} apis, the last one killed,"
    )
    print(f"{arguments.per_minute} requests a minute\n")
    print("| what | number |\n|---|---|")
    for what, number in (
        ("calls that were sent", tally.num_calls),
        ("answered", len(tally.admitted)),
        ("refused with 429", tally.num_refused),
        ("cut by the kill", tally.num_broken),
        ("charged, by the ledger", len(tally.charged_at_us)),
        (f"allowed from the first charge to the last, {span_s:.1f} s", int(tally.most(arguments.per_minute))),
        ("charges that were one too many", "none" if tally.is_never_over(arguments.per_minute) else "some"),
        ("tokens in the answers", sum(tally.admitted)),
        ("tokens in the ledger, of settled charges", sum(tally.settled)),
        ("charges that were not settled, their api being dead", tally.num_held),
        ("seconds for all calls", f"{tally.wall_s:.0f}"),
    ):
        print(f"| {what} | {number} |")


if __name__ == "__main__":
    main()
