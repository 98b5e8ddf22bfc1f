"""16 questions that arrive one after another: our scheduler against `generate()`, one at a time and in padded batches.

    python -m benchmarks.glm_serving                                 # a CPU core, mid-size random model
    python -m benchmarks.glm_serving --shape tiny                    # where calls, not arithmetic, take the time
    python -m benchmarks.glm_serving --shape 9b --device cuda        # the published shape, random bf16 weights

All three get the same questions at the same moments, and write the same tokens, which is checked. `generate()` one at a
time is first come, first served. In batches, it takes everybody who waits whenever it is free, and is free again when
the longest answer is written. Answers differ in length, so it throws some tokens away; those count for nobody.

The clock is the device's own time (CPU time on a CPU), moved on to the next arrival whenever there is nothing to do.
The last column is what this hardware allows at most: reading prompts and pictures is bound by arithmetic, side by side
it costs the same; and a decode step of N rows cannot take less than its bare matrix products.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.glm_random import Bench, Case, Collector, bare_products, options
from benchmarks.printed import table
from engines.base import Delta, EngineError


@dataclass
class Question:
    """A request, and when it comes: a share of the time that answering all of them one by one takes."""

    case: Case
    num_new: int
    arrival: float


@dataclass
class Outcome:
    """What one way of serving did."""

    total_s: float = 0.0
    ttft_s: list[float] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)

    @property
    def p95_s(self) -> float:
        """Time to first token that 95 % of the questions stay below."""
        return statistics.quantiles(self.ttft_s, n=20, method="inclusive")[-1]


class Clock:
    """The device's time, which can be moved on while there is nothing to do."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._start = bench.now()
        self._skipped = 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return self._bench.now() - self._start + self._skipped

    def skip_to(self, moment: float) -> None:
        """Move on to a moment, unless it has passed."""
        self._skipped += max(0.0, moment - self.now())


class FirstToken(Collector):
    """A sink that calls back at its first token."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        super().__init__()
        self._on_first: Callable[[], None] | None = on_first

    def put(self, item: Delta | EngineError | None) -> None:
        """Take what the scheduler sends."""
        if self._on_first is not None and isinstance(item, Delta):
            self._on_first()
            self._on_first = None
        super().put(item)


def make_questions(bench: Bench, count: int, side: int) -> list[Question]:
    """Make questions of unequal length, every other one with a picture; they all come in the first eighth."""
    chance = random.Random(0)
    arrivals = sorted(chance.uniform(0, 1 / 8) for _ in range(count))
    questions = []
    for index, arrival in enumerate(arrivals):
        sides = [(side, side)] if index % 2 == 0 else []
        case = bench.make_case(chance.randint(24, 96), sides, seed=index)
        questions.append(Question(case, chance.randint(24, 72), arrival - arrivals[0]))
    return questions


def serve_ours(bench: Bench, questions: Sequence[Question], scale_s: float, num_rows: int) -> Outcome:
    """Answer with the scheduler."""
    served = bench.make_batch(num_rows)
    jobs = [bench.prepare(question.case, question.num_new) for question in questions]
    waiting = list(zip(jobs, questions, strict=True))
    outcome, rows = Outcome(ttft_s=[0.0] * len(jobs)), {}
    begin = served.runner.begin
    # The rows know the ids; sinks only see text.
    served.runner.begin = lambda job: rows.setdefault(id(job), begin(job))  # type: ignore[method-assign]
    clock = Clock(bench)
    while waiting or not served.batch.is_idle:
        if served.batch.is_idle:
            clock.skip_to(waiting[0][1].arrival * scale_s)
        while waiting and waiting[0][1].arrival * scale_s <= clock.now():
            job, question = waiting.pop(0)
            index = len(jobs) - len(waiting) - 1
            at = question.arrival * scale_s

            def on_first(index: int = index, at: float = at) -> None:
                outcome.ttft_s[index] = clock.now() - at

            served.batch.submit(job, FirstToken(on_first))
        served.batch.step()
    outcome.total_s = clock.now()
    outcome.ids = [rows[id(job)].token_ids for job in jobs]
    return outcome


def serve_generate(bench: Bench, questions: Sequence[Question], scale_s: float, num_rows: int) -> Outcome:
    """Answer with `generate()`, as many at a time as wait and fit."""
    outcome, clock, waiting = Outcome(), Clock(bench), list(questions)
    while waiting:
        clock.skip_to(waiting[0].arrival * scale_s)
        now = clock.now()
        batch = [question for question in waiting if question.arrival * scale_s <= now][:num_rows]
        first: list[float] = []
        ids = bench.generate(
            [question.case for question in batch],
            max(question.num_new for question in batch),
            lambda first=first: first.append(clock.now()) if not first else None,  # type: ignore[misc]
        )
        outcome.ttft_s += [first[0] - question.arrival * scale_s for question in batch]
        outcome.ids += [row[: question.num_new] for row, question in zip(ids, batch, strict=True)]
        del waiting[: len(batch)]
    outcome.total_s = clock.now()
    return outcome


def arithmetic_allows(bench: Bench, questions: Sequence[Question], alone_s: float) -> float:
    """How much faster than one by one this hardware could be at most.

    Prompts are read as `generate()` reads them; then all answers are written from the same moment on, each step taking
    no longer than the bare products of the rows that are not done yet.
    """
    sizes = [1, 2, 4, 8, 16, 32]
    times = [bench.alternate(bare_products(bench, size), runs=5)[0] for size in sizes]
    prompts_s = sum(bench.clock(lambda case=question.case: bench.generate([case], 1)) for question in questions)
    running = [
        sum(question.num_new > step for question in questions) for step in range(1, max(q.num_new for q in questions))
    ]
    steps_s = sum(float(np.interp(num_rows, sizes, times)) for num_rows in running)
    return alone_s / (prompts_s + steps_s)


def main() -> None:
    """Run what the options ask for."""
    parser = options(__doc__)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--side", type=int, default=16, help="sides of a picture, in patches of 14 px; 72 is 1 MP")
    args = parser.parse_args()
    bench = Bench.make(args)
    questions = make_questions(bench, args.requests, args.side)
    num_tokens = sum(question.num_new for question in questions)
    scale_s = serve_generate(bench, questions, 0.0, 1).total_s
    scale_s = serve_generate(bench, questions, 0.0, 1).total_s  # the first run warms up
    ways: dict[str, Callable[[], Outcome]] = {
        "scheduler": lambda: serve_ours(bench, questions, scale_s, args.requests),
        "generate(), one at a time": lambda: serve_generate(bench, questions, scale_s, 1),
        "generate(), padded batches": lambda: serve_generate(bench, questions, scale_s, args.requests),
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in ways}
    for _ in range(args.runs):
        for name, serve in ways.items():
            outcomes[name].append(serve())

    def median(name: str, value: Callable[[Outcome], float]) -> float:
        return statistics.median(map(value, outcomes[name]))

    alone = "generate(), one at a time"
    alone_s, alone_p95_s = median(alone, lambda o: o.total_s), median(alone, lambda o: o.p95_s)
    most = arithmetic_allows(bench, questions, alone_s)
    rows = []
    for name in ways:
        total_s, p95_s = median(name, lambda o: o.total_s), median(name, lambda o: o.p95_s)
        pairs = zip(outcomes[name][0].ids, outcomes[alone][0].ids, strict=True)
        rows.append(
            (
                name,
                f"{num_tokens / total_s:.1f}",
                f"{alone_s / total_s:.2f}x",
                f"{1e3 * median(name, lambda o: statistics.median(o.ttft_s)):.0f}",
                f"{1e3 * p95_s:.0f}",
                f"{alone_p95_s / p95_s:.1f}x",
                f"{sum(one == other for one, other in pairs)} of {len(questions)}",
                f"{most:.2f}x" if name == "scheduler" else "",
            )
        )
    head = ("way", "tokens/s", "throughput", "TTFT, ms", "P95 TTFT, ms", "sooner", "equal answers", "arithmetic allows")
    table(f"{len(questions)} questions, {num_tokens} tokens of answers", head, rows)


if __name__ == "__main__":
    sys.exit(main())
