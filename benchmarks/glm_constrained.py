"""What it costs to hold answers to a JSON Schema: decode steps of constrained rows against those of free rows.

    python -m benchmarks.glm_constrained                             # a CPU core, mid-size random model
    python -m benchmarks.glm_constrained --vocab 151552              # the true width of the mask; slow, most is lm_head
    python -m benchmarks.glm_constrained --shape 9b --device cuda    # the published shape, random bf16 weights

Both sides write the same number of tokens: the schema is a list that cannot end before the measurement does. The aim is
at most 5 % more per step. On the CPU, the masks' time is that of all threads together; on a GPU they are computed
beside its work on the logits. "Masks alone" times the same calls by themselves, which says more than the difference of
two large numbers on a busy machine. The vocabulary is made up, of the shape's own size.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.glm_random import MARKS, Bench, Collector, Served, options
from benchmarks.printed import table
from engines.runtime.constrained import Constraint, Grammar, GrammarCompiler, constrain

PROMPT_TOKENS = 128
SCHEMA = {
    "type": "array",
    "minItems": 300,  # about 6,000 tokens; what must be longer than 20,000 bytes is refused
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3, "maxLength": 24},
            "price": {"type": "integer", "minimum": 0, "maximum": 99999},
            "unit": {"enum": ["kg", "piece", "bottle", "box"]},
            "is_reduced": {"type": "boolean"},
        },
        "required": ["name", "price", "unit", "is_reduced"],
        "additionalProperties": False,
    },
}


def start(bench: Bench, num_rows: int, grammars: Sequence[Grammar | None]) -> Served:
    """Bring rows to where only decode steps are left."""
    served = bench.make_batch(num_rows)
    for index, grammar in enumerate(grammars):

        def constraint(grammar: Grammar | None = grammar) -> Constraint:
            assert grammar is not None
            return grammar.start(asleep_until=None)

        case = bench.make_case(PROMPT_TOKENS - 3 * index, seed=index)
        served.batch.submit(bench.prepare(case, 10**6, constraint if grammar else None), Collector())
    while served.batch.num_rows < num_rows or any(row.place is None for row in served.rows()):
        served.batch.step()
    return served


_ALONE_STEPS = 200


def constraining_alone(bench: Bench, grammar: Grammar, num_rows: int) -> float:
    """Time what a constraint adds to a step, and nothing else: masks, their use, and taking the token; seconds."""
    constraints = [grammar.start(asleep_until=None) for _ in range(num_rows)]
    spent = 0.0
    for _ in range(_ALONE_STEPS):
        logits = torch.randn((num_rows, bench.config.vocab_size), device=bench.device, dtype=bench.model.dtype)
        began = bench.now()
        allowed = constrain(logits, constraints)
        spent += bench.now() - began
        token_ids = allowed.argmax(-1).tolist()
        began = bench.now()
        for constraint, token_id in zip(constraints, token_ids, strict=True):
            constraint.accept(token_id)
        spent += bench.now() - began
    return spent / _ALONE_STEPS


def main() -> None:
    """Run what the options ask for."""
    parser = options(__doc__)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--steps", type=int, default=2, help="decode steps of one measurement")
    args = parser.parse_args()
    bench = Bench.make(args)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bench.tokenizer)  # type: ignore[no-untyped-call]
    began = time.process_time()
    stop_ids = [bench.tokenizer.token_to_id(MARKS[0])]
    compiler = GrammarCompiler(tokenizer, bench.config.vocab_size, stop_ids)
    compiler_s = time.process_time() - began
    began = time.process_time()
    grammar = compiler.compile(json.dumps(SCHEMA))
    compile_s = time.process_time() - began
    print(f"\n{bench.config.vocab_size} tokens: {compiler_s:.2f} s once, and {1e3 * compile_s:.1f} ms for this schema.")

    rows = []
    for num_rows in args.batches or ([1, 8, 32] if bench.device.type == "cuda" else [1, 8]):
        half: list[Grammar | None] = [grammar if index % 2 else None for index in range(num_rows)]
        sides = [start(bench, num_rows, [None] * num_rows), start(bench, num_rows, [grammar] * num_rows)]
        if num_rows > 1:
            sides.append(start(bench, num_rows, half))

        def run(served: Served) -> None:
            for _ in range(args.steps):
                served.batch.step()

        works = [lambda served=served: run(served) for served in sides]
        free_s, all_s, *half_s = (s / args.steps for s in bench.alternate(*works, runs=8 * args.runs))
        alone_s = constraining_alone(bench, grammar, num_rows)
        for served in sides:  # nobody has come to an end, so all have written as many tokens
            assert len(served.rows()) == num_rows
        rows.append(
            (
                num_rows,
                f"{1e3 * free_s:.2f}",
                f"{1e3 * all_s:.2f}",
                f"{all_s / free_s - 1:+.1%}",
                f"{1e3 * half_s[0]:.2f}" if half_s else "",
                f"{half_s[0] / free_s - 1:+.1%}" if half_s else "",
                f"{1e3 * alone_s:.2f}",
                f"{alone_s / free_s:.1%}",
            )
        )
    head = ("rows", "free, ms", "all constrained, ms", "more", "every other, ms", "more", "masks alone, ms", "share")
    table("one decode step", head, rows)


if __name__ == "__main__":
    sys.exit(main())
