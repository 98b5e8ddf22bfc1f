"""What benchmarks print: the machine, percentiles and Markdown tables."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version

from router.cli.redis_server import find_redis


def at_percent(values: Sequence[float], percent: int) -> float:
    """Return the value that so many per cent stay below."""
    if percent == 50:
        return statistics.median(values)
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def describe_machine() -> str:
    """Return two lines that say what is measured on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "fastapi", "uvicorn"))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {packages},\n"
        f"server {find_redis({}).version}; load average before the run {load}."
    )


def print_machine() -> None:
    """Print what was measured on."""
    print(describe_machine())
