"""One question is one trace, over all the processes that work on it, whatever becomes of them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.receiver import Receiver
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from tests.support.collector import Collector, Seen

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PNG = (Path(__file__).parents[2] / "engines/pocket/samples/price.png").read_bytes()
ASKED = "which of these only the asker knows"
KEY = "alice-8d1f77c0b2"
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _fast_engines() -> None:
    """Keep the stack of the other journeys from being started: here each process keeps traces."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def stack(collector: Collector) -> Iterator[ProcessStack]:
    stack = ProcessStack(
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
            "GLOWL_API_KEYS": KEY,
            "GLOWL_ALLOW_PRIVATE_URLS": "true",
            "GLOWL_LEASE_S": "1.5",
            "GLOWL_CACHE_BYTES": "0",
        }
    )
    try:
        stack.start()
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def http(stack: ProcessStack) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "from-the-door"}
    with httpx.Client(base_url=stack.urls[0], timeout=120, trust_env=False, headers=headers) as http:
        yield http


def ask(**more: Any) -> Json:
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    content = [{"type": "input_text", "text": ASKED}, {"type": "input_image", "image_url": url}]
    return {"model": "glowl", "input": [{"role": "user", "content": content}], **more}


def of_trace(collector: Collector, trace_id: str, *beginnings: str) -> dict[str, Seen]:
    """Wait until spans have come whose process and name begin so, then return all of the trace by process and name.

    Each process sends its own, whenever it has time.
    """

    def found() -> dict[str, Seen]:
        return {f"{span.process} {span.name}": span for span in collector.spans(trace_id=trace_id)}

    wait_until(lambda: all(any(name.startswith(each) for name in found()) for each in beginnings), f"{beginnings}")
    return found()


def test_a_deep_question_with_a_webhook_is_one_trace_over_all_processes(
    http: httpx.Client, collector: Collector
) -> None:
    receiver = Receiver()
    try:
        body = ask(background=True, hybrid={"route": "deep"}, metadata={"webhook_url": receiver.url})
        sent = {"traceparent": PARENT, "tracestate": "vendor=1"}
        response_id = http.post("/v1/responses", json=body, headers=sent).json()["id"]
        headers, _ = receiver.next()
    finally:
        receiver.stop()

    found = of_trace(
        collector,
        "a" * 32,
        *("api POST /v1/responses", "worker queue deep", "worker run deep", "worker chat ", "owl2 chat "),
        *("worker queue merge", "worker run merge", "worker POST webhook"),
    )
    door = found["api POST /v1/responses"]
    owl2 = next(name for name in found if name.startswith("owl2 chat "))
    asked = owl2.replace("owl2 ", "worker ", 1)
    parents = {name: span.parent for name, span in found.items()}
    assert door.parent == "b" * 16
    for name in ("queue deep", "run deep", "queue merge", "run merge", "POST webhook"):
        assert parents[f"worker {name}"] == door.id, name
    assert parents[asked] == found["worker run deep"].id
    assert parents[owl2] == found[asked].id
    assert headers["traceparent"] == f"00-{'a' * 32}-{found['worker POST webhook'].id}-01"
    assert headers["tracestate"] == "vendor=1"
    assert found["worker queue deep"].ended <= found["worker run deep"].ended
    about = found[asked].attributes
    assert about["gen_ai.operation.name"] == "chat"
    assert about["gen_ai.provider.name"] == "glowl"
    assert asked == f"worker chat {about['gen_ai.request.model']}"
    assert about["gen_ai.usage.input_tokens"] > 0
    assert about["gen_ai.response.finish_reasons"] == ["stop"]
    assert about["glowl.response_id"] == response_id
    assert {span.attributes.get("glowl.request_id") for span in found.values()} == {"from-the-door"}
    assert not any(span.is_error for span in found.values())


def test_a_fast_stream_tells_when_its_first_text_came(http: httpx.Client, collector: Collector) -> None:
    body = {"model": "glowl", "messages": [{"role": "user", "content": "猫在哪里？"}], "stream": True}
    parent = f"00-{'c' * 32}-{'d' * 16}-01"
    with http.stream("POST", "/v1/chat/completions", json=body, headers={"traceparent": parent}) as answer:
        answer.read()
    found = of_trace(collector, "c" * 32, "api POST /v1/chat/completions", "api chat ", "glm chat ")
    asked = next(span for name, span in found.items() if name.startswith("api chat "))
    answered = next(span for name, span in found.items() if name.startswith("glm chat "))
    door = found["api POST /v1/chat/completions"]
    assert (asked.parent, answered.parent) == (door.id, asked.id)
    assert asked.events == answered.events == ("glowl.first_text",)
    assert asked.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert (door.attributes["glowl.route"], door.attributes["http.response.status_code"]) == ("fast", 200)


@pytest.mark.parametrize("parent", ["", "garbage", f"00-{'0' * 32}-{'b' * 16}-01", "00-" + "a" * 300])
def test_a_trace_context_that_cannot_be_read_is_no_error(http: httpx.Client, collector: Collector, parent: str) -> None:
    seen = len(collector.spans(name="GET /v1/models"))
    assert http.get("/v1/models", headers={"traceparent": parent}).status_code == 200
    wait_until(lambda: len(collector.spans(name="GET /v1/models")) > seen, "the span")
    assert collector.spans(name="GET /v1/models")[-1].parent == ""


def test_what_the_caller_does_not_keep_is_not_kept_here(http: httpx.Client, collector: Collector) -> None:
    kept, left_out = f"00-{'e' * 32}-{'f' * 16}-01", f"00-{'9' * 32}-{'f' * 16}-00"
    body = {"model": "glowl", "messages": [{"role": "user", "content": "猫在哪里？"}]}
    for parent in (left_out, kept):
        assert http.post("/v1/chat/completions", json=body, headers={"traceparent": parent}).status_code == 200
    of_trace(collector, "e" * 32, "api POST /v1/chat/completions")
    assert collector.spans(trace_id="9" * 32) == []


def test_probes_and_the_page_are_no_traces(http: httpx.Client, collector: Collector) -> None:
    http.get("/healthz")
    http.get("/ui/")
    http.get("/v1/presets", headers={"traceparent": f"00-{'8' * 32}-{'f' * 16}-01"})
    of_trace(collector, "8" * 32, "api GET /v1/presets")
    assert not [span for span in collector.spans() if "healthz" in span.name or "/ui" in span.name]


def test_a_run_after_a_worker_was_killed_is_in_the_same_trace(
    stack: ProcessStack, http: httpx.Client, collector: Collector
) -> None:
    quick = stack._argv["owl2"]
    stack.processes["owl2"].stop()
    stack._argv["owl2"] = [*quick[:5], "60"]
    stack.start("owl2")
    stack.wait_ready("owl2", "api0")
    parent = f"00-{'7' * 32}-{'f' * 16}-01"
    body = ask(background=True, hybrid={"route": "deep"})
    response_id = http.post("/v1/responses", json=body, headers={"traceparent": parent}).json()["id"]

    def is_running() -> bool:
        branches = http.get(f"/v1/responses/{response_id}").json()["hybrid"]["branches"]
        return any((branch["name"], branch["state"]) == ("deep", "in_progress") for branch in branches)

    wait_until(is_running, "the run")
    stack.kill("worker0")
    stack.processes["owl2"].stop()
    stack._argv["owl2"] = quick
    stack.start("owl2")
    stack.wait_ready("owl2", "api0")
    stack.start("worker0")

    found = of_trace(collector, "7" * 32, "api POST /v1/responses", "worker run deep", "worker run merge")
    door, run = found["api POST /v1/responses"], found["worker run deep"]
    assert run.parent == door.id
    assert run.attributes["glowl.run"] >= 2
    assert http.get(f"/v1/responses/{response_id}").json()["status"] == "completed"


def test_nothing_that_a_caller_wrote_is_in_a_span(collector: Collector) -> None:
    assert collector.spans()
    picture = base64.b64encode(PNG)
    for secret in (ASKED.encode(), "猫在哪里".encode(), KEY.encode(), picture[200:240], PNG[64:96], b"/hook"):
        assert not [body for body in collector.bodies if secret in body]
