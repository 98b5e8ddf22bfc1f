"""The metrics that the dashboard reads from a vLLM server are those of the vLLM that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.dashboard import VLLM

pytest.importorskip("vllm")


def test_vllm_has_the_metrics_that_the_dashboard_reads() -> None:
    spec = find_spec("vllm.v1.metrics.loggers")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text("utf-8")
    assert [name for name in VLLM.values() if f'name="{name.removesuffix("_total")}"' not in source] == []
