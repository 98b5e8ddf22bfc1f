"""Spans of one process: their names, parents and attributes in both versions of the conventions, and how they end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from engines.base import (
    Delta,
    EngineOverloadedError,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
    Usage,
)
from engines.origin import Origin

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engines.traces.sdk import Traces

ASKED = GenerationRequest(
    (Message("user", (TextPart("a secret"),)),),
    SamplingParams(max_tokens=7, stop=("a secret",), seed=3),
    request_id="resp_1",
    origin=Origin("req_1", "", f"00-{'a' * 32}-{'b' * 16}-01", "vendor=1"),
)
USAGE = Usage(prompt_tokens=30, completion_tokens=5, cached_tokens=20, reasoning_tokens=2)


def make(**environ: str) -> tuple[Traces, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return Traces("api", [exporter], environ), exporter


async def answer(request: GenerationRequest) -> AsyncGenerator[Delta, None]:
    yield Delta("")
    yield Delta("cat")
    yield Delta("", finish_reason="stop", usage=USAGE)


async def read(traces: Traces, stream: Any = answer, most: int = 9) -> None:
    async with aclosing(traces.follow(stream, ASKED, "glm-pocket", "client")) as deltas:
        async for _ in deltas:
            if (most := most - 1) == 0:
                return


def ended(traces: Traces, exporter: InMemorySpanExporter) -> Any:
    traces.end()
    [span] = exporter.get_finished_spans()
    return span


async def test_a_call_is_named_as_the_conventions_have_it_and_lies_in_the_span_that_caused_it() -> None:
    traces, exporter = make()
    await read(traces)
    span = ended(traces, exporter)
    assert span.name == "chat glm-pocket"
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == ("a" * 32, "b" * 16)
    assert [event.name for event in span.events] == ["glowl.first_text"]
    assert dict(span.attributes) == {
        "gen_ai.system": "glowl",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "glm-pocket",
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.seed": 3,
        "gen_ai.output.type": "text",
        "gen_ai.response.model": "glm-pocket",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 5,
        "glowl.num_images": 0,
        "glowl.request_id": "req_1",
        "glowl.response_id": "resp_1",
    }


async def test_the_latest_conventions_are_opted_in_as_everywhere() -> None:
    traces, exporter = make(OTEL_SEMCONV_STABILITY_OPT_IN="http, gen_ai_latest_experimental")
    await read(traces)
    attributes = dict(ended(traces, exporter).attributes)
    assert attributes.pop("gen_ai.response.time_to_first_chunk") >= 0
    assert "gen_ai.system" not in attributes
    assert {name: attributes[name] for name in attributes if "cache" in name or "reasoning" in name} == {
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.reasoning.output_tokens": 2,
    }
    assert (attributes["gen_ai.provider.name"], attributes["gen_ai.request.stream"]) == ("glowl", True)


async def test_the_engine_is_asked_inside_the_span() -> None:
    traces, exporter = make()
    asked: list[Origin] = []

    async def engine(request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        asked.append(request.origin)
        async for delta in answer(request):
            yield delta

    await read(traces, engine)
    span = ended(traces, exporter)
    assert asked == [Origin("req_1", "", f"00-{'a' * 32}-{span.context.span_id:016x}-01", "vendor=1")]


async def test_a_refusal_is_said_by_its_code_and_never_by_its_words() -> None:
    traces, exporter = make()

    async def engine(_request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        raise EngineOverloadedError("a secret")
        yield

    with pytest.raises(EngineOverloadedError):
        await read(traces, engine)
    span = ended(traces, exporter)
    assert (span.attributes["error.type"], span.status.is_ok) == (EngineOverloadedError("").code, False)
    assert "a secret" not in span.to_json()


async def test_an_answer_that_is_not_read_to_its_end_says_so() -> None:
    traces, exporter = make()
    await read(traces, most=2)
    span = ended(traces, exporter)
    assert span.attributes["glowl.broken_off"] is True
    assert "error.type" not in span.attributes


@pytest.mark.parametrize("parent", ["", "garbage", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01"])
def test_a_context_that_cannot_be_read_begins_a_trace(parent: str) -> None:
    traces, exporter = make()
    traces.begin("one", "server", Origin(traceparent=parent), {}).end()
    assert ended(traces, exporter).parent is None


@pytest.mark.parametrize(("flags", "number"), [("00", 0), ("01", 1)])
def test_whoever_asks_decides_whether_the_trace_is_kept(flags: str, number: int) -> None:
    traces, exporter = make()
    span = traces.begin("one", "server", Origin(traceparent=f"00-{'a' * 32}-{'b' * 16}-{flags}"), {})
    span.end()
    traces.end()
    assert len(exporter.get_finished_spans()) == number
    assert span.origin.traceparent.endswith(f"-{flags}")


def test_a_trace_state_that_is_long_is_not_handed_on() -> None:
    traces, _ = make()
    state = ",".join(f"vendor{number}={'x' * 100}" for number in range(8))
    span = traces.begin("one", "server", Origin(traceparent=f"00-{'a' * 32}-{'b' * 16}-01", tracestate=state), {})
    span.end()
    assert span.origin.tracestate == ""
    traces.end()


def test_a_process_is_named_unless_somebody_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for environ, expected in (({}, "glowl-api"), ({"OTEL_SERVICE_NAME": "mine"}, "mine")):
        traces, exporter = make(**environ)
        traces.begin("one", "server", Origin(), {}).end()
        assert ended(traces, exporter).resource.attributes["service.name"] == expected
