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

from engines.base import Engine, EngineOptions  # noqa: E402
from engines.http.balancer import BalancedClient  # noqa: E402
from engines.http.client import EngineClient  # noqa: E402
from engines.http.loading import load_engine  # noqa: E402
from engines.http.server import listening  # noqa: E402
from engines.pocket.random_tiny import ensure_random_tiny  # noqa: E402
from tests.contract.test_engine_contract import (  # noqa: E402, F401  collected here once more, with our own `engine`
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
