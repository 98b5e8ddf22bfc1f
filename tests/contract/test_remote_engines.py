"""The cases every engine must pass, over the echo behind vLLM's wire: one server, and two of which one dies.

What a request says and how an answer arrives is checked here; what vLLM's wire cannot carry (a refusal's own code, the
pictures' share of the tokens, the request's id) is left to our own server.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from engines.base import (
    Engine,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    generate,
)
from engines.echo import EchoEngine
from engines.http.balancer import BalancedClient
from engines.http.client import EngineClient
from tests.contract.test_engine_contract import (  # noqa: F401  collected here once more, with our own fixtures
    Subject,
    picture,
    question,
    test_a_closed_engine_refuses,
    test_a_prompt_is_counted_as_its_answer_uses_it,
    test_a_prompt_over_the_context_is_refused,
    test_a_stop_string_ends_the_answer_and_is_no_part_of_it,
    test_an_answer_closed_half_way_leaves_the_engine_ready_for_the_next,
    test_an_answer_comes_in_several_deltas,
    test_an_answer_cut_at_max_tokens_says_length,
    test_an_answer_is_no_longer_than_max_tokens,
    test_an_answer_read_to_its_end_was_not_cancelled,
    test_bytes_that_are_no_picture_are_refused_and_the_engine_lives_on,
    test_cancelling_a_caller_who_waits_for_the_first_delta_cancels_the_generation,
    test_closing_the_stream_cancels_the_generation,
    test_greedy_answers_repeat_and_joined_deltas_are_the_whole_answer,
    test_info_tells_the_role_the_variant_and_the_limits,
    test_log_probabilities_are_those_of_the_answers_tokens_or_refused_by_name,
    test_log_probabilities_arrive_with_the_words_they_are_of,
    test_more_pictures_than_the_engine_takes_are_refused,
    test_only_the_last_delta_has_finish_reason_and_usage,
    test_requests_made_together_are_answered_as_if_alone,
    test_text_of_any_script_and_line_ending_arrives_as_it_left,
)
from tests.support.vllm_server import MODEL, VllmServer, serving


@contextlib.asynccontextmanager
async def reached_by(transport: str, echo: EchoEngine) -> AsyncIterator[Engine]:
    await echo.start()
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(echo)) for _ in range(2 if transport == "balanced" else 1)]
        clients = [EngineClient(server.url, timeout_s=30.0, name="glm") for server in servers]
        client = BalancedClient(clients) if transport == "balanced" else clients[0]
        stack.push_async_callback(client.aclose)
        await client.start()
        if transport == "balanced":
            await servers[0].stop()
        yield client


@pytest.fixture(params=["vllm", "balanced"])
async def open_echo(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., object]]:
    async with contextlib.AsyncExitStack() as stack:

        async def open_(**knobs: object) -> Subject:
            echo = EchoEngine(**knobs)
            return Subject(await stack.enter_async_context(reached_by(request.param, echo)), echo)

        yield open_


@pytest.fixture
async def engine(open_echo) -> Engine:
    return (await open_echo(context_tokens=512, max_images=3)).engine


@pytest.fixture
def counts_image_tokens() -> bool:
    return False


async def test_everything_that_changes_an_answer_reaches_the_engine_unchanged(open_echo):
    subject = await open_echo()
    request = GenerationRequest(
        messages=(
            Message("system", (TextPart("Be short.\n"),)),
            Message("user", (TextPart("first "), picture("red"), TextPart(" then "), picture("blue"))),
            Message("assistant", (TextPart('Ja "so" \\ \u2028'),)),
            Message("user", (TextPart("猫 🦉 \u0000 e\u0301"),)),
        ),
        sampling=SamplingParams(
            max_tokens=7, temperature=0.5, top_p=0.25, seed=2**40, stop=("\n", "停"), top_logprobs=3
        ),
    )

    await generate(subject.engine, request)

    assert subject.echo.last_request == request


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_is_switched_either_way_and_kept_apart(field):
    # Given a server whose model thinks unless told not to
    echo = EchoEngine("glm")
    await echo.start()
    async with serving(echo, reasoning_field=field) as server:
        client = EngineClient(server.url, timeout_s=30.0)
        messages = (Message("user", (TextPart("why so"),)),)

        thought = await generate(client, GenerationRequest(messages, enable_thinking=True))
        answered = await generate(client, GenerationRequest(messages))
        await client.aclose()

    assert (thought.reasoning, answered.reasoning) == ("[echo glm] the question has 2 words", "")
    assert thought.text == answered.text == "[echo glm] no pictures, question: why so"


@pytest.mark.parametrize("num_before", [0, 2], ids=["at-once", "in-mid-answer"])
async def test_a_broken_answer_is_a_failure_at_any_point(open_echo, num_before):
    subject = await open_echo(fail_with=GenerationFailedError("raised"), fail_after_deltas=num_before)

    with pytest.raises(GenerationFailedError, match="raised"):
        await generate(subject.engine, question("what goes wrong?"))


async def test_a_full_server_is_overloaded_and_says_when_to_come_again(open_echo):
    subject = await open_echo(fail_with=EngineOverloadedError("full"))

    with pytest.raises(EngineOverloadedError) as caught:
        await generate(subject.engine, question("room?"))

    assert caught.value.retry_after_s == 7.0


async def test_a_wrong_key_or_model_name_is_told_to_the_operator_and_a_right_one_served():
    echo = EchoEngine("glm")
    await echo.start()
    async with serving(echo, api_key="right") as server:
        for options, words in (
            ({"api_key": "wrong"}, "refuses the API key"),
            ({"api_key": "right", "model": "other"}, "no such path or model"),
        ):
            client = EngineClient(server.url, timeout_s=30.0, **options)
            with pytest.raises(EngineUnavailableError, match=words) as caught:
                await generate(client, question("hi"))
            assert server.url in caught.value.for_operators
            assert server.url not in caught.value.message
            assert "right" not in caught.value.for_operators
            await client.aclose()
        client = EngineClient(server.url, timeout_s=30.0, api_key="right", model=MODEL)
        assert (await generate(client, question("hi", max_tokens=None))).text.endswith("question: hi")
        await client.aclose()


async def test_an_adapter_is_asked_for_by_its_own_name_there():
    echo = EchoEngine("glm", adapters=("receipts",))
    await echo.start()
    async with serving(echo, adapters=("receipts",)) as server:
        client = EngineClient(server.url, timeout_s=30.0)
        message = (Message("user", (TextPart("hi"),)),)

        assert (await client.info()).adapters == ("receipts",)
        await generate(client, GenerationRequest(message, adapter="receipts"))
        with pytest.raises(InvalidRequestError, match="receipts") as caught:
            await generate(client, GenerationRequest(message, adapter="other"))
        await client.aclose()

    assert [body["model"] for body in server.bodies] == ["receipts"]
    assert caught.value.param == "model"


async def test_callers_do_not_share_a_foreign_cache(open_echo):
    subject = await open_echo()
    salts = []
    for caller in ("alice", "bob", "alice"):
        await generate(subject.engine, GenerationRequest((Message("user", (TextPart("hi"),)),), caller=caller))
        salts.append(subject.echo.last_request.caller)

    assert salts[0] == salts[2] != salts[1]
    assert "alice" not in salts[0]


async def test_a_server_that_dies_under_load_costs_no_answer_that_had_not_begun():
    # Given two servers and requests waiting at both for their first word
    echo = EchoEngine("glm", delta_delay_s=3600.0)
    await echo.start()
    servers = [VllmServer(echo), VllmServer(echo)]
    for server in servers:
        await server.start()
    client = BalancedClient([EngineClient(server.url, timeout_s=30.0) for server in servers])
    await client.start()
    callers = [
        asyncio.create_task(generate(client, question(f"number {number}", max_tokens=None))) for number in range(12)
    ]
    await echo.wait_for(lambda echo: echo.num_running == 12)
    num_at = [len(server.bodies) for server in servers]
    assert min(num_at) > 0

    # When one dies
    echo.delta_delay_s = 0.0
    await servers[0].stop()

    # Then the other answers what the dead one had, and all that comes after it
    answered: set[asyncio.Task] = set()
    waiting = set(callers)
    while len(answered) < num_at[0]:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered |= done
    for task in answered:
        assert task.result().text == f"[echo glm] no pictures, question: number {callers.index(task)}"
    await generate(client, question("and now?"))
    assert len(servers[1].bodies) == 12 + 1
    assert [status.is_up for status in client.status()] == [False, True]
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await client.aclose()
    await servers[1].stop()
