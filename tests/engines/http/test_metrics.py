"""``/metrics`` of an engine server: what was asked, how it ended, and how the engine is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from engines import meters
from engines.base import (
    Delta,
    EngineError,
    GenerationFailedError,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
    Usage,
)
from engines.echo import EchoEngine
from engines.http.app import EngineHost, app_of
from engines.http.server import listening
from tests.support.pictures import to_part

QUESTION = GenerationRequest((Message("user", (TextPart("one two three four"),)),), SamplingParams(max_tokens=50))


async def read(http: httpx.AsyncClient) -> dict[str, float]:
    answer = await http.get("/metrics")
    assert answer.status_code == 200, answer.text
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {each.name + "".join(each.labels.values()): each.value for each in samples}


@contextlib.asynccontextmanager
async def serving(engine: EchoEngine):
    async with listening(engine) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        while (await http.get("/readyz")).status_code != 200:
            pass
        yield http


async def test_requests_are_counted_by_how_they_end() -> None:
    async with serving(EchoEngine("glm")) as http:
        body = {"model": "glm", "messages": [{"role": "user", "content": "hi there"}]}
        for more in ({}, {"stream": True}, {"max_tokens": 1}):
            assert (await http.post("/v1/chat/completions", json=body | more)).status_code == 200
        found = await read(http)

    assert found["glowl_engine_requests_totalstop"] == 2
    assert found["glowl_engine_requests_totallength"] == 1
    assert found["glowl_engine_e2e_request_latency_seconds_count"] == 3
    assert found["glowl_engine_time_to_first_token_seconds_count"] == 3
    assert found["glowl_engine_prompt_tokens_total"] > 0
    assert found["glowl_engine_generation_tokens_total"] > 0
    assert found["glowl_engine_ready"] == 1
    # An engine that does not say how it is has no values there, rather than zeros.
    assert "glowl_engine_kv_cache_usage_ratio" not in found
    assert "glowl_gpu_memory_used_bytes" not in found


async def test_caches_tokens_and_pictures_are_counted_as_the_answer_says() -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=3, image_tokens=64, cached_tokens=80)
    pictures = (to_part(Image.new("RGB", (8, 8))),) * 2
    request = GenerationRequest((Message("user", (*pictures, TextPart("which?"))),), SamplingParams())

    async def answer() -> AsyncGenerator[Delta, None]:
        yield Delta(text="a")
        yield Delta(text="b", finish_reason="stop", usage=usage)

    counting = meters.EngineMeters()
    async with contextlib.aclosing(counting.follow(answer(), request)) as deltas:
        assert [delta.text async for delta in deltas] == ["a", "b"]
    state = meters.EngineState(num_running=2, num_waiting=3, num_vision_queries=5, num_vision_hits=4)
    text = counting.expose(state, is_ready=True)[0].decode()
    for line in (
        "glowl_engine_prefix_cache_queries_total 100.0",
        "glowl_engine_prefix_cache_hits_total 80.0",
        "glowl_engine_time_per_output_token_seconds_count 1.0",
        "glowl_picture_tokens_sum 32.0",
        "glowl_engine_num_requests_running 2.0",
        "glowl_engine_num_requests_waiting 3.0",
        "glowl_engine_vision_cache_queries_total 5.0",
        "glowl_engine_vision_cache_hits_total 4.0",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("outcome", ["gone", "error"])
async def test_answers_that_do_not_come_to_their_end_are_counted_too(outcome: str) -> None:
    class Failing(EchoEngine):
        async def stream(self, request: GenerationRequest):
            async for delta in super().stream(request):
                yield delta
                if outcome == "error":
                    raise GenerationFailedError("broken")

    host = EngineHost(Failing("glm"))
    await host.engine.start()
    deltas = host.stream(QUESTION)
    with contextlib.suppress(EngineError):
        await anext(deltas)
        await anext(deltas)
    await deltas.aclose()
    text = host.meters.expose(meters.EngineState(), is_ready=False)[0].decode()
    assert f'glowl_engine_requests_total{{outcome="{outcome}"}} 1.0' in text
    assert "glowl_engine_ready 0.0" in text
    assert app_of(host).routes


def test_every_family_is_named_by_the_rules() -> None:
    names = [family.name for family in meters.ENGINE]
    assert len(set(names)) == len(names)
    for family in meters.ENGINE:
        assert family.name.startswith(("glowl_engine_", "glowl_picture_", "glowl_gpu_"))
        assert (family.kind == "counter") == family.name.endswith("_total"), family.name
