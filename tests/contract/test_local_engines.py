"""The cases every engine must pass, over both local engines with tiny checkpoints of random weights.

Each in this process and behind its own server; GLM also behind vLLM's wire: one server, and two of which one died.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from engines.base import (  # noqa: E402
    Engine,
    EngineOptions,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPart,
    generate,
)
from engines.http.balancer import BalancedClient  # noqa: E402
from engines.http.client import EngineClient  # noqa: E402
from engines.http.loading import load_engine  # noqa: E402
from engines.http.server import listening  # noqa: E402
from engines.meters import HasMeters  # noqa: E402
from engines.pocket.random_tiny import ensure_random_tiny  # noqa: E402
from tests.contract.test_engine_contract import (  # noqa: E402, F401  collected here once more, with our own `engine`
    test_a_prompt_is_counted_as_its_answer_uses_it,
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
from tests.support.pictures import to_part  # noqa: E402
from tests.support.vllm_server import serving  # noqa: E402

pytestmark = pytest.mark.asyncio(loop_scope="module")  # each engine is loaded once, so one loop, for all tests


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices: more threads only get in each other's way
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    return ensure_random_tiny(tmp_path_factory.mktemp("models"))


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["glm", "owl2", "glm-http", "owl2-http", "glm-vllm", "glm-balanced"],
)
async def engine(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> AsyncIterator[Engine]:
    name, _, transport = request.param.partition("-")
    engine = load_engine(name, EngineOptions(model=str(checkpoints[name]), device="cpu"))
    async with contextlib.AsyncExitStack() as stack:
        if transport == "http":
            url = await stack.enter_async_context(listening(engine))
            client: EngineClient | BalancedClient = EngineClient(url, timeout_s=30.0)
        else:
            await engine.start()
            stack.push_async_callback(engine.aclose)
        if not transport:
            yield engine
            return
        if transport == "vllm":
            server = await stack.enter_async_context(serving(engine, api_key="secret"))
            client = EngineClient(server.url, timeout_s=30.0, name="glm", api_key="secret")
        elif transport == "balanced":
            servers = [await stack.enter_async_context(serving(engine)) for _ in range(2)]
            client = BalancedClient([EngineClient(server.url, timeout_s=30.0, name="glm") for server in servers])
        stack.push_async_callback(client.aclose)
        await client.start()
        if transport == "balanced":
            await servers[0].stop()
        yield client


@pytest.fixture
def counts_image_tokens(request: pytest.FixtureRequest) -> bool:
    return not request.node.callspec.params["engine"].endswith(("-vllm", "-balanced"))


async def test_a_tiny_checkpoint_is_labelled_as_what_it_is(engine, counts_image_tokens):
    info = await engine.info()

    assert info.variant == ("random-tiny" if counts_image_tokens else "full")  # a foreign server says nothing of it


def _counts(engine: HasMeters) -> dict[str, float]:
    text = engine.meters.expose(engine.state(), is_ready=True)[0].decode()
    rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


async def test_an_engine_measures_its_pictures_rows_and_caches(engine: Engine) -> None:
    if not isinstance(engine, HasMeters):  # behind a server, which is asked for its metrics elsewhere
        return
    picture = to_part(Image.new("RGB", (64, 48), "olive"))
    turn = Message("user", (picture, TextPart("What is it?")))
    request = GenerationRequest((turn,), SamplingParams(max_tokens=4), caller="alice")
    before = _counts(engine)

    # When the same picture is asked about twice, the second time for a part of an answer
    await generate(engine, request)
    async with contextlib.aclosing(engine.stream(request)) as deltas:
        await anext(deltas)
        during = engine.state()
    after = _counts(engine)

    # Then it was decoded twice and encoded once
    def more(name: str) -> float:
        return after[name] - before[name]

    assert more("glowl_picture_decode_seconds_count") == 2
    assert more("glowl_picture_encode_seconds_count") == 1
    assert more("glowl_engine_vision_cache_queries_total") >= 1
    assert more("glowl_engine_batch_rows_count") > 0
    assert 0 < (during.kv_usage or 0) <= 1
    assert (during.num_running, during.gpu_used_bytes) == (1, None)
