"""The second question about the same picture: what the prefix cache saves, against reading everything again.

    python -m benchmarks.glm_prefix                                  # a CPU core, mid-size random model
    python -m benchmarks.glm_prefix --shape 9b --device cuda         # the published shape, random bf16 weights

(a) Time to the first token of two questions about one picture, with the cache and without, beside `generate()` with one
new token; the share of the prefill's time and of its floating-point operations that the second question is spared.
The aim is 90 %; the figure often quoted for such caches is 40 %.
(b) The same for a whole second request, with 64 and 256 new tokens: what a caller sees.
(c) The same picture after another first turn: only the vision tower's output can be reused then.
On CUDA the pictures are 0.3 and 1.0 MP, else smaller ones; (a) is then the time to the first token of the issue's aims.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.glm_random import Bench, Case, options
from benchmarks.printed import table
from engines.glm.runner import PreparedRequest

QUESTION_TOKENS = 24


@dataclass
class Saved:
    """Of the second question, without the cache and with it."""

    plain: float
    cached: float

    def __str__(self) -> str:
        return f"{1 - self.cached / self.plain:.1%}"


def ask(case: Case, seed: int) -> Case:
    """Ask something else about the same pictures."""
    question = [(id_ * 7 + seed) % 500 for id_ in range(QUESTION_TOKENS)]
    return Case([*case.ids, *question], case.pictures)


def flops(work: Callable[[], object]) -> int:
    """Count floating-point operations of matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@contextmanager
def warm(bench: Bench, first: Case) -> Iterator[Callable[[PreparedRequest], object]]:
    """Give what answers a request after another one was answered, whose beginning it may share."""
    served = bench.make_batch(1, cache_bytes=2**31)
    served.answer([bench.prepare(first, 1)])
    yield lambda job: served.answer([job])


def measure(bench: Bench, first: Case, second: Case, num_new: int, runs: int) -> tuple[float, Saved]:
    """Time a second question with the first in the cache, and without; and what `generate()` takes; medians."""
    columns: list[tuple[float, float, float]] = []
    for _ in range(runs + 1):  # the first run warms up
        plain = bench.make_batch(1)
        generate_s = bench.clock(lambda: bench.generate([second], num_new))
        plain_s = bench.clock(lambda plain=plain: plain.answer([bench.prepare(second, num_new)]))
        with warm(bench, first) as answer:
            cached_s = bench.clock(lambda answer=answer: answer(bench.prepare(second, num_new)))
        columns.append((generate_s, plain_s, cached_s))
    generate_s, plain_s, cached_s = (statistics.median(column) for column in zip(*columns[1:], strict=True))
    return generate_s, Saved(plain_s, cached_s)


def count(bench: Bench, first: Case, second: Case) -> Saved:
    """Count the second question's operations up to its first token."""
    plain = flops(lambda: bench.make_batch(1).answer([bench.prepare(second, 1)]))
    with warm(bench, first) as answer:
        return Saved(plain, flops(lambda: answer(bench.prepare(second, 1))))


def bench_first_token(bench: Bench, sides: Sequence[tuple[int, int]], runs: int) -> None:
    """Print (a)."""
    rows = []
    for height, width in sides:
        case = bench.make_case(16, [(height, width)])
        first, second = ask(case, 1), ask(case, 2)
        generate_s, time = measure(bench, first, second, 1, runs)
        rows.append(
            (
                f"{width * 14} x {height * 14}, {len(second.ids)} tokens",
                f"{1e3 * generate_s:.1f}",
                f"{1e3 * time.plain:.1f}",
                f"{1e3 * time.cached:.1f}",
                time,
                count(bench, first, second),
            )
        )
    head = ("picture and prompt", "generate(), ms", "no cache, ms", "with cache, ms", "time saved", "FLOPs saved")
    table(f"(a) first token of a second question, {QUESTION_TOKENS} tokens of it new", head, rows)


def bench_whole(bench: Bench, side: tuple[int, int], runs: int) -> None:
    """Print (b)."""
    case = bench.make_case(16, [side])
    rows = []
    for num_new in (64, 256):
        generate_s, time = measure(bench, ask(case, 1), ask(case, 2), num_new, runs)
        rows.append((num_new, f"{generate_s:.2f}", f"{time.plain:.2f}", f"{time.cached:.2f}", time))
    head = ("new tokens", "generate(), s", "no cache, s", "with cache, s", "time saved")
    table(f"(b) the whole second answer, {side[1] * 14} x {side[0] * 14}", head, rows)


def bench_picture_only(bench: Bench, side: tuple[int, int], runs: int) -> None:
    """Print (c)."""
    case = bench.make_case(16, [side])
    other = Case([*range(300, 324), *case.ids], case.pictures)
    generate_s, time = measure(bench, case, other, 1, runs)
    saved = count(bench, case, other)
    row = (f"{1e3 * generate_s:.1f}", f"{1e3 * time.plain:.1f}", f"{1e3 * time.cached:.1f}", time, saved)
    head = ("generate(), ms", "no cache, ms", "with cache, ms", "time saved", "FLOPs saved")
    table("(c) the same picture behind another beginning", head, [row])


def main() -> None:
    """Run what the options ask for."""
    args = options(__doc__).parse_args()
    bench = Bench.make(args)
    sides = [(34, 46), (72, 70)] if bench.device.type == "cuda" else [(16, 16), (24, 24), (34, 46)]
    bench_first_token(bench, sides, args.runs)
    bench_whole(bench, sides[-1], max(1, args.runs // 2))
    bench_picture_only(bench, sides[-1], args.runs)


if __name__ == "__main__":
    sys.exit(main())
