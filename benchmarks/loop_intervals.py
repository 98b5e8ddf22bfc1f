"""Do the intervals of `glowl verdict` and `glowl replay` hold the truth? On logs whose truth is known.

    python -m benchmarks.loop_intervals [--logs 500] [--replay] [--write REVISION]

Each log has 400 documents with one to three questions each; one of both models is right where the other is wrong for a
fifth of them, and documents differ in which model finds them hard. A quarter of the questions gets a second look, drawn
at random. The true gain of the deeper look is 0, +3 or -3 points. Counted: how often the interval holds it, and how
often the verdict says that the deeper look pays.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from router.loop.stats.records import judged
from router.loop.stats.replay import replay
from router.loop.stats.verdict import judge_slice
from tests.support.logs import simulated_log

GAINS: Final = (0.0, 0.03, -0.03)
NUM_DOCUMENTS: Final = 400
PROBABILITY: Final = 0.25
RESULTS: Final = Path(__file__).parent / "results" / "loop_intervals.md"


def main() -> None:
    """Simulate, print the table, and keep it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=500, help="per true gain")
    parser.add_argument("--replay", action="store_true", help="replay each log too, with all questions sent deep")
    parser.add_argument("--write", metavar="REVISION", help="keep the table, as measured with this commit")
    arguments = parser.parse_args()
    began = time.monotonic()
    with ProcessPoolExecutor(len(GAINS)) as pool:
        rows = list(pool.map(partial(_measure, num_logs=arguments.logs, with_replay=arguments.replay), GAINS))
    text = "\n".join(
        (
            "| true gain, points | logs | verdict: interval holds it | says it pays | says it harms "
            "| mean width, points | replay of all deep: interval holds it |",
            "|---|---|---|---|---|---|---|",
            *rows,
        )
    )
    print(text)
    if arguments.write:
        RESULTS.write_text(
            "# Intervals on logs whose truth is known\n\n"
            f"`python -m benchmarks.loop_intervals --logs {arguments.logs}"
            f"{' --replay' if arguments.replay else ''} --write REVISION`, revision "
            f"`{arguments.write}`, {time.strftime('%Y-%m-%d', time.gmtime())}, "
            f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, "
            f"{time.monotonic() - began:.0f} s on a busy machine.\n\n"
            f"{NUM_DOCUMENTS} documents per log, a second look with probability {PROBABILITY}.\n\n{text}\n",
            encoding="utf-8",
        )


def _measure(gain: float, num_logs: int, with_replay: bool) -> str:
    generator = random.Random(f"loop intervals {gain}")
    num_held = num_paid = num_harmed = num_replayed = 0
    width = 0.0
    for _ in range(num_logs):
        log = simulated_log(generator, gain, num_documents=NUM_DOCUMENTS, probability=PROBABILITY)
        verdict = judge_slice("fast", judged(log))
        assert verdict.gain is not None
        num_held += verdict.gain.low <= gain <= verdict.gain.high
        num_paid += verdict.says == "pays"
        num_harmed += verdict.says == "harms"
        width += verdict.gain.high - verdict.gain.low
        if with_replay:
            other = replay(log, lambda _: "deep").gain
            num_replayed += other is not None and other.low <= gain <= other.high
    shares = [f"{count / num_logs:.1%}" for count in (num_held, num_paid, num_harmed)]
    return (
        f"| {100 * gain:+.0f} | {num_logs} | {' | '.join(shares)} | {100 * width / num_logs:.1f} | "
        f"{f'{num_replayed / num_logs:.1%}' if with_replay else '-'} |"
    )


if __name__ == "__main__":
    main()
