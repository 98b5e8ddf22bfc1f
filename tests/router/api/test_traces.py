"""What traces cost: nothing where they are off, shown by counting calls, and not by a clock."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from types import FrameType
from typing import Any

import httpx
import pytest

from router.app import create_app
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess

OF_TRACES = ("engines.traces", "router.middleware.traced", "router.work.traced", "opentelemetry")


def calls_of(app: Any, *, is_streamed: bool) -> Counter[str]:
    """Count the calls of an api's thread into what makes traces, while it answers one question."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        name = str(frame.f_globals.get("__name__"))
        if event == "call" and name.startswith(OF_TRACES):
            calls[name] += 1

    before = sys.getprofile()
    threading.setprofile(note)
    try:
        server = AppServer(app)
        with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as http:
            calls.clear()
            body = {"model": "glowl", "messages": [{"role": "user", "content": "猫在哪里？"}], "stream": is_streamed}
            answer = http.post(
                "/v1/chat/completions", json=body, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
            )
            assert answer.status_code == 200, answer.text
        server.stop()
    finally:
        threading.setprofile(before)  # type: ignore[arg-type]
    return calls


@pytest.fixture
def settings(echo_urls: dict[str, str], redis_process: RedisProcess) -> Settings:
    return Settings(REDIS_URL=redis_process.url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"], cache_bytes=0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_without_traces_a_question_calls_nothing_of_them(settings: Settings, is_streamed: bool) -> None:
    assert calls_of(create_app(settings), is_streamed=is_streamed) == {}


def test_with_traces_these_calls_are_counted(settings: Settings) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from engines.traces.sdk import Traces

    exporter = InMemorySpanExporter()
    traces = Traces("api", [exporter], {})
    calls = calls_of(create_app(settings, traces), is_streamed=True)
    traces.end()
    assert sum(calls.values()) > 20
    names = {span.name for span in exporter.get_finished_spans()}
    assert names == {"POST /v1/chat/completions", "chat glm-4.6v-flash-echo"}
