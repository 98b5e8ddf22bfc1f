"""The cases that every engine must pass, over vLLM's asynchronous engine: in this process and behind our server.

Only where vLLM is: ``make test-vllm``. vLLM is started once, with processes of its own, as a server starts it.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

pytest.importorskip("vllm")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
os.environ.setdefault("VLLM_CPU_CI_ENV", "1")

from engines.base import Engine, EngineOptions, GenerationRequest, Message, SamplingParams, TextPart, generate
from engines.http.client import EngineClient
from engines.http.loading import load_engine
from engines.http.server import listening
from engines.pocket.random_tiny import make_owl2
from tests.contract.test_engine_contract import (  # noqa: F401  collected here once more, with our own `engine`
    picture,
    question,
    test_a_prompt_over_the_context_is_refused,
    test_a_stop_string_ends_the_answer_and_is_no_part_of_it,
    test_an_answer_closed_half_way_leaves_the_engine_ready_for_the_next,
    test_an_answer_is_no_longer_than_max_tokens,
    test_bytes_that_are_no_picture_are_refused_and_the_engine_lives_on,
    test_greedy_answers_repeat_and_joined_deltas_are_the_whole_answer,
    test_info_tells_the_role_the_variant_and_the_limits,
    test_log_probabilities_are_those_of_the_answers_tokens_or_refused_by_name,
    test_more_pictures_than_the_engine_takes_are_refused,
    test_only_the_last_delta_has_finish_reason_and_usage,
    test_requests_made_together_are_answered_as_if_alone,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

VLLM_ARGS = "--block-size 32 --kv-cache-memory-bytes 67108864 --max-num-batched-tokens 64 --enforce-eager"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory) -> AsyncIterator[tuple[Engine, EngineClient]]:
    folder = tmp_path_factory.mktemp("models") / "owl2"
    make_owl2(folder)
    engine = load_engine("owl2_vllm", EngineOptions(model=str(folder), max_batch=4, vllm_args=VLLM_ARGS))
    async with listening(engine) as url:
        client = EngineClient(url, timeout_s=3000.0)  # a hang guard: vLLM starts three processes
        await client.start()
        yield engine, client
        await client.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["in-process", "http"])
async def engine(request, served) -> Engine:
    return served[request.param == "http"]


@pytest.fixture
def counts_image_tokens() -> bool:
    return True


async def test_a_client_that_leaves_frees_the_row_in_vllm(served):
    local, client = served
    stream = client.stream(question("Tell me a long story.", max_tokens=400))
    await anext(stream)
    await stream.aclose()

    # One answer of a few tokens later, vLLM has nothing left to do: the abort was sent before that was asked.
    await generate(local, question("And now?", max_tokens=3))

    assert local.state().num_running == 0


async def test_what_one_caller_left_in_the_caches_is_found_by_that_caller_only(engine):
    text = "Describe the chart. The price of apples rises from ten to twenty, then falls again. " * 3

    async def cached(caller: str) -> int:
        message = Message("user", (picture(), TextPart(text)))
        request = GenerationRequest((message,), SamplingParams(max_tokens=2), caller=caller)
        return (await generate(engine, request)).usage.cached_tokens

    assert await cached(f"alice {id(engine)}") == 0
    assert await cached(f"bob {id(engine)}") == 0
    assert await cached(f"alice {id(engine)}") >= 32


async def test_sampling_with_a_seed_repeats(engine):
    request = question("What is this?", picture(), temperature=1.0, top_p=0.9, seed=-5, max_tokens=12)

    assert (await generate(engine, request)).text == (await generate(engine, request)).text


async def test_the_server_tells_what_vllm_does(served):
    local, _ = served
    await generate(local, question("Hello?"))

    text = local.meters.expose(local.state(), is_ready=True)[0].decode()

    assert "glowl_engine_batch_rows_count" in text
    assert "glowl_engine_kv_cache_usage_ratio" in text
