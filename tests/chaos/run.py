"""Rounds of chaos one after another: ``python -m tests.chaos.run --jobs 200 --kills 24 --rounds 20 --seed 1``.

In: how much. Out: a Markdown table with a row per round, and every finding below it; exit status 1 if there is any.
``--out FILE`` keeps it, with the command and the machine, as ``benchmarks/results/jobs_chaos.md`` has it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.printed import describe_machine
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


_HOW_TO_READ = """
How to read it. Three callers send jobs to two apis (text and pictures; polled, waited for, streamed, cancelled; direct
answers, streamed as responses and as stored chats; some with a deadline that some of them miss, and some whose engine
is killed in the middle of a direct answer, which is what the failed ones are), each under an Idempotency-Key and some
of them several times, while processes are killed and started again. A round is green if every id that a caller was
ever told, in a body, an event or a header, is there and has ended once, with the one right answer, as its caller saw
it; every stream is whole over all its connections; every end was told under one id, signed, until it was taken; no job
is over its deadline unreported; and nothing of all this is left in redis once the jobs are deleted. Runs that die with
their worker or engine do not count as failures here, being the weather; all else is as shipped. The receiver of
webhooks fails one post in five and hangs up on one in ten.
"""


def to_page(command: str, machine: str, rows: Sequence[str], reports: Sequence[Report], findings: list[str]) -> str:
    """Return what is kept of the rounds."""
    states, kills = (sum((getattr(each, of) for each in reports), Counter()) for of in ("states", "kills"))
    totals = (
        f"All {len(reports)} rounds together: {sum(states.values())} jobs ({_counted(states)}), "
        f"{sum(kills.values())} processes killed with -9 ({_counted(kills)}),",
        f"{sum(each.num_reruns for each in reports)} units begun again, "
        f"{sum(each.num_events for each in reports)} webhook events "
        f"in {sum(each.num_posts for each in reports)} posts, "
        f"slowest job {max(each.slowest_s for each in reports):.1f} s, findings: {len(findings)}.",
    )
    parts = (
        "# Chaos: everything is killed, nothing is lost",
        f"`{command}`",
        machine,
        "\n".join(rows),
        "\n".join(totals),
        *(["\n".join(f"- {finding}" for finding in findings)] if findings else []),
        _HOW_TO_READ.strip(),
    )
    return "\n\n".join(parts) + "\n"


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
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table here too, after every round")
    options = parser.parse_args(argv)
    machine = describe_machine()
    command = (
        f"python -m tests.chaos.run --jobs {options.jobs} --kills {options.kills} --rounds {options.rounds} "
        f"--seed {options.seed} --gap {options.gap:g}{' --quick' if options.quick else ''}"
    )
    # Told to end, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    reports: list[Report] = []
    stack = make_stack(is_quick=options.quick)
    findings: list[str] = []
    print(machine, *rows, sep="\n", flush=True)
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
            findings += (wrong := [f"round {number}: {finding}" for finding in report.wrong])
            reports.append(report)
            rows.append(f"| {' | '.join(str(cell) for cell in to_row(number, report))} |")
            print(rows[-1], *(f"- {each}" for each in wrong), sep="\n", flush=True)
            if options.out:
                options.out.write_text(to_page(command, machine, rows, reports, findings), encoding="utf-8")
    finally:
        stack.stop()
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
