"""Rounds of chaos one after another: ``python -m tests.chaos.run --jobs 200 --kills 24 --rounds 20 --seed 1``.

In: how much. Out: a Markdown table with a row per round, and every finding below it; exit status 1 if there is any.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.chaos.round import Report, make_stack, run_round

HEAD = (
    *("round", "seed", "jobs by state", "killed with -9", "units run again", "calls tried again", "streams resumed"),
    *("direct answers", "of them broken off and asked again"),
    *("webhook events", "posts of them", "slowest job, s", "wall, s", "findings"),
)


def to_row(number: int, report: Report) -> tuple[object, ...]:
    """Return the cells of a round."""
    return (
        *(number, report.seed, _counted(report.states), _counted(report.kills), report.num_reruns, report.num_retries),
        *(
            report.num_resumes,
            report.num_direct,
            report.num_broken_answers,
            report.num_events,
            report.num_posts,
            f"{report.slowest_s:.1f}",
            f"{report.wall_s:.0f}",
        ),
        len(report.wrong),
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def main(argv: list[str] | None = None) -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="per round (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=24, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="one after another (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next ones count on")
    parser.add_argument("--gap", type=float, default=2.0, help="longest time between two kills, s")
    parser.add_argument("--quick", action="store_true", help="leases and resends shorter than the defaults")
    options = parser.parse_args(argv)
    stack = make_stack(is_quick=options.quick)
    findings: list[str] = []
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    try:
        stack.start()
        stack.wait_ready()
        for number in range(1, options.rounds + 1):
            report = asyncio.run(
                run_round(
                    stack,
                    options.seed + number - 1,
                    num_jobs=options.jobs,
                    num_kills=options.kills,
                    gap_s=(options.gap / 4, options.gap),
                )
            )
            findings += [f"round {number}: {finding}" for finding in report.wrong]
            print(f"| {' | '.join(str(cell) for cell in to_row(number, report))} |", flush=True)
    finally:
        stack.stop()
    for finding in findings:
        print(f"- {finding}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
