"""What traces and the log cost: CPU of a text request with traces and without, and of one line, alone.

    python -m benchmarks.traces                              # from the root; a quiet machine

Two apis of the same code are up, one of which sends its traces to a collector here, and are asked in turn, as in
`benchmarks.metrics`, but in two processes: a process keeps traces or it does not. Two that are equal show what such a
comparison cannot tell. That nothing is called where traces are off is a test: tests/router/api/test_traces.py.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.gateway_stack import KEY, Stack
from benchmarks.metrics import compare, warm_up
from benchmarks.printed import describe_machine, table
from engines.logs import HumanLines, JsonLines
from engines.origin import ORIGIN, Origin
from tests.support.collector import Collector

_LOOKS: Final = 100
_CALLS: Final = 1000


def microseconds(call: Callable[[], object]) -> float:
    """CPU of one call: the median of some rounds in this process."""
    found = []
    for _ in range(_LOOKS):
        began = time.process_time_ns()
        for _ in range(_CALLS):
            call()
        found.append((time.process_time_ns() - began) / _CALLS / 1000)
    return statistics.median(found)


def of_the_log() -> list[list[str]]:
    """Rows: what a request pays for its id, and for its line."""
    fields = {"method": "POST", "path": "/v1/chat/completions", "status": 200, "duration_ms": 12.3, "client": "::1"}
    record = logging.LogRecord("router.access", logging.INFO, "", 0, "%s %s %d", ("POST", "/v1", 200), None)
    record.fields = fields
    forms = {"JSON": JsonLines("api"), "for people": HumanLines("api")}
    rows = [["id of a request, set", f"{microseconds(lambda: ORIGIN.set(Origin('req_0123456789abcdef01234567'))):.2f}"]]
    rows += [
        [f"line, {name}", f"{microseconds(lambda form=form: form.format(record)):.2f}"] for name, form in forms.items()
    ]
    return rows


def compare_two(stack: Stack, first: Mapping[str, str], second: Mapping[str, str], count: int) -> list[list[str]]:
    """Start two apis that differ in their environment; returns a row for plain requests and one for streamed ones."""
    for name, more in (("first", first), ("second", second)):
        headers = {"authorization": f"Bearer {KEY}"}
        stack.add_ours(name, {"GLOWL_API_KEYS": KEY, "GLOWL_CACHE_BYTES": "0", **more}, model="glowl", headers=headers)
    apis = stack.gateways[-2:]
    warm_up(*apis)
    return [compare(*apis, count, is_streamed=is_streamed) for is_streamed in (False, True)]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3000)
    options = parser.parse_args()
    print(f"python -m benchmarks.traces {' '.join(sys.argv[1:])}\n{describe_machine()}", flush=True)
    table("The log, alone", ["what", "CPU us"], of_the_log())
    collector = Collector()
    with tempfile.TemporaryDirectory(prefix="glowl-t") as folder:
        stack = Stack(Path(folder), [])
        try:
            collected = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
            rows = compare_two(stack, collected, {}, options.pairs)
            control = compare_two(stack, {}, {}, options.pairs)
            columns = ["way", "CPU ms, first", "second", "the first costs more by", "with 95 % certainty"]
            table("A text request of 1 KB: every one kept, and without traces", columns, rows)
            table("The same, both without traces", columns, control)
        finally:
            stack.stop()
            collector.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
