"""The balancer over servers that do as they are told: who is asked, who is left out, and when he is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from engines.base import (
    Delta,
    EngineError,
    EngineInfo,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    Usage,
    generate,
)
from engines.http.balancer import BalancedClient, affinity_key, connect, estimate_cost
from engines.http.client import EngineClient, Readiness
from tests.support.clock import Clock


class FakeServer:
    """Answers ``[url]`` in two deltas, or fails as it is told; a request waits at the gate before its first delta."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.readiness: tuple[Readiness, str] = ("ready", "")
        self.fail_with: EngineError | None = None
        self.fail_after = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.num_asked = 0
        self.num_probes = 0
        self.is_closed = False
        self.is_hanging = False

    async def info(self) -> EngineInfo:
        if self.readiness[0] != "ready":
            raise EngineUnavailableError(f"{self.url} has no info")
        return EngineInfo("glm", self.url, "full", 4096, 4)

    async def probe(self) -> tuple[Readiness, str]:
        self.num_probes += 1
        if self.is_hanging:
            await asyncio.Event().wait()
        return self.readiness

    async def start(self) -> None:
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.readiness[0] != "ready":
            raise EngineUnavailableError(self.readiness[1])

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.num_asked += 1
        await self.gate.wait()
        for place in range(2):
            if self.fail_with is not None and place >= self.fail_after:
                raise self.fail_with
            yield Delta(text=f"[{self.url}]")
        if self.fail_with is not None:
            raise self.fail_with
        yield Delta(finish_reason="stop", usage=Usage())

    async def aclose(self) -> None:
        self.is_closed = True

    def die(self) -> None:
        self.readiness = ("waiting", "connection refused")
        self.fail_with = EngineUnavailableError(f"{self.url} is gone")

    def live(self) -> None:
        self.readiness, self.fail_with = ("ready", ""), None


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def servers() -> list[FakeServer]:
    return [FakeServer(url) for url in ("a", "b", "c")]


@pytest.fixture
def client(servers: list[FakeServer], clock: Clock) -> BalancedClient:
    return BalancedClient(servers, clock=clock, jitter=lambda: 1.0)


def ask(text: str = "hi", *images: str, caller: str = "", **sampling: object) -> GenerationRequest:
    pictures = tuple(ImagePart(b"x", "image/png", sha256) for sha256 in images)
    message = Message("user", (*pictures, TextPart(text)))
    return GenerationRequest((message,), SamplingParams(**sampling), caller=caller)  # type: ignore[arg-type]


async def asked(client: BalancedClient, request: GenerationRequest) -> str:
    """Who answered."""
    return (await generate(client, request)).text[1]


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def up(client: BalancedClient) -> str:
    return "".join(status.url if status.is_up else "-" for status in client.status())


# --- who is asked ---------------------------------------------------------------------------------------------------


async def test_requests_that_run_together_spread_over_all_servers(client, servers):
    for server in servers:
        server.gate.clear()
    running = [asyncio.create_task(generate(client, ask(f"question {number}"))) for number in range(30)]
    await settle()

    assert [status.num_outstanding for status in client.status()] == [10, 10, 10]

    for server in servers:
        server.gate.set()
    await asyncio.gather(*running)
    assert [status.num_outstanding for status in client.status()] == [0, 0, 0]


async def test_work_is_counted_in_tokens_not_in_requests(client, servers):
    # Given one server with a long prompt, the others without work
    for server in servers:
        server.gate.clear()
    long = asyncio.create_task(generate(client, ask("word " * 20_000)))
    await settle()
    (busy,) = [server for server in servers if server.num_asked]

    # When many short requests come
    short = [asyncio.create_task(generate(client, ask(f"{number}"))) for number in range(40)]
    await settle()

    # Then none goes where the long one is
    assert busy.num_asked == 1
    for server in servers:
        server.gate.set()
    await asyncio.gather(long, *short)


async def test_a_prompt_that_was_read_is_work_no_more(client, servers):
    # Given a server that has begun to answer a long prompt
    stream = client.stream(ask("word " * 20_000, max_tokens=1))
    await anext(stream)
    (begun,) = [server for server in servers if server.num_asked]
    for server in servers:
        server.gate.clear()

    # When as many requests come as there are servers
    running = [asyncio.create_task(generate(client, ask(f"{number}" * 999, max_tokens=1))) for number in range(3)]
    await settle()

    assert begun.num_asked == 2
    for server in servers:
        server.gate.set()
    await asyncio.gather(*running)
    await stream.aclose()


async def test_one_picture_goes_to_one_server_while_none_is_busy(client):
    for number in range(8):
        picture = f"{number}" * 64
        first = await asked(client, ask("what is it?", picture, caller="alice"))
        assert {await asked(client, ask(text, picture, caller="alice")) for text in ("why?", "where?")} == {first}


async def test_pictures_and_callers_spread_evenly(client):
    for requests in (
        [ask("what?", f"{number:064x}") for number in range(300)],
        [ask("what?", "0" * 64, caller=f"{number}") for number in range(300)],
    ):
        answers = [await asked(client, request) for request in requests]
        assert all(70 < answers.count(url) < 130 for url in "abc")


async def test_a_busy_server_loses_its_picture_to_another(client, servers):
    # Given the picture's own server, busy with other prompts that are longer than what its cache would save
    request = ask("what is it?", "0" * 64)
    own = await asked(client, request)
    others = [ask("word " * 3000, f"{number:064x}") for number in range(40)]
    theirs = [other for other in others if await asked(client, other) == own][:2]
    for server in servers:
        server.gate.clear()
    running = [asyncio.create_task(generate(client, other)) for other in theirs]
    await settle()

    # When it is asked about again
    running.append(asyncio.create_task(generate(client, request)))
    await settle()
    for server in servers:
        server.gate.set()
    results = await asyncio.gather(*running)

    # Then another answers
    assert results[0].text[1] == own
    assert results[-1].text[1] != own


async def test_a_server_that_comes_or_goes_moves_only_its_own_share(clock):
    requests = [ask("what?", f"{number:064x}") for number in range(60)]
    three = BalancedClient([FakeServer(url) for url in "abc"], clock=clock)
    two = BalancedClient([FakeServer(url) for url in "ab"], clock=clock)

    for request in requests:
        before = await asked(three, request)
        assert before == "c" or await asked(two, request) == before


def test_a_conversation_keeps_its_key_as_it_goes_on():
    first = Message("user", (TextPart("hello"),))
    later = (first, Message("assistant", (TextPart("hi"),)), Message("user", (TextPart("and?"),)))
    begun = GenerationRequest((first,), caller="alice")

    assert affinity_key(replace(begun, messages=later)) == affinity_key(begun)
    assert affinity_key(replace(begun, caller="bob")) != affinity_key(begun)
    assert affinity_key(replace(begun, adapter="receipts")) != affinity_key(begun)


def test_a_cost_counts_text_pictures_and_the_likely_answer():
    assert estimate_cost(ask("word", max_tokens=5)).answer == 5
    assert estimate_cost(ask("word")).answer < estimate_cost(replace(ask("word"), enable_thinking=True)).answer
    assert estimate_cost(ask("x" * 4000)).prompt == 1000
    assert estimate_cost(ask("", "0" * 64, "1" * 64)).prompt == 2 * estimate_cost(ask("", "0" * 64)).prompt > 2000


# --- who is left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [EngineUnavailableError("gone"), EngineOverloadedError("full"), GenerationFailedError("raised")]
)
async def test_a_request_that_failed_before_its_first_delta_is_answered_by_another(client, servers, error):
    request = ask()
    own = {server.url: server for server in servers}[await asked(client, request)]
    own.fail_with = error

    result = await generate(client, request)

    assert result.text[1] != own.url
    assert result.text == f"[{result.text[1]}]" * 2


async def test_only_one_other_server_is_asked(client, servers):
    for server in servers:
        server.fail_with = GenerationFailedError("raised")

    with pytest.raises(GenerationFailedError):
        await generate(client, ask())

    assert sum(server.num_asked for server in servers) == 2


async def test_a_dead_second_server_does_not_hide_what_the_first_one_said(clock):
    for number in range(20):
        servers = [FakeServer(url) for url in "ab"]
        servers[0].fail_with = GenerationFailedError("raised")
        servers[1].die()
        client = BalancedClient(servers, clock=clock)

        with pytest.raises(GenerationFailedError, match="raised"):
            await generate(client, ask(f"{number}"))


async def test_after_the_first_delta_nobody_else_is_asked(client, servers):
    for server in servers:
        server.fail_with, server.fail_after = EngineUnavailableError("gone"), 1
    stream = client.stream(ask())

    received = await anext(stream)
    with pytest.raises(EngineUnavailableError, match="gone"):
        await anext(stream)

    assert received.text
    assert sum(server.num_asked for server in servers) == 1
    assert up(client).count("-") == 1


@pytest.mark.parametrize("error", [InvalidRequestError("wrong"), EngineTimeoutError("silent")])
async def test_what_would_be_no_better_elsewhere_is_not_asked_again(client, servers, error):
    for server in servers:
        server.fail_with = error

    with pytest.raises(type(error)):
        await generate(client, ask())

    assert sum(server.num_asked for server in servers) == 1
    assert up(client).count("-") == isinstance(error, EngineTimeoutError)


async def test_a_dead_server_is_asked_nothing_while_its_pause_lasts(client, servers, clock):
    servers[0].die()
    for number in range(20):
        assert await asked(client, ask(f"{number}")) in "bc"

    assert servers[0].num_asked == 1
    assert servers[0].num_probes == 0
    assert up(client) == "-bc"
    assert client.status()[0].reason == "a is gone"


async def kill_by_asking(client: BalancedClient, server: FakeServer) -> None:
    """Send requests until the server has failed one."""
    server.die()
    number = 0
    while server.url in up(client):
        await generate(client, ask(f"{number}"))
        number += 1


async def test_the_pauses_double_up_to_a_quarter_of_a_minute(client, servers, clock):
    await kill_by_asking(client, servers[0])
    pauses, began = [], clock.now
    while len(pauses) < 8:
        num_probes = servers[0].num_probes
        clock.now += 0.25
        await generate(client, ask())
        await settle()
        if servers[0].num_probes > num_probes:
            pauses.append(clock.now - began)
            began = clock.now

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert servers[0].num_asked == 1


async def test_requests_that_fail_together_count_once(client, servers, clock):
    for server in servers:
        server.gate.clear()
    running = [asyncio.create_task(generate(client, ask(f"{number}"))) for number in range(30)]
    await settle()
    servers[0].die()
    for server in servers:
        server.gate.set()
    await asyncio.gather(*running)

    # Then the first pause is as short as after a single failure
    clock.now += 0.5
    await generate(client, ask())
    await settle()
    assert servers[0].num_probes == 1


async def test_pauses_are_spread_by_chance(servers, clock):
    # Given the balancer's own dice
    client = BalancedClient(servers, clock=clock)
    pauses = set()
    for _ in range(5):
        await kill_by_asking(client, servers[0])
        began = clock.now
        while servers[0].num_probes == 0:
            clock.now += 0.01
            await generate(client, ask())
            await settle()
        pauses.add(round(clock.now - began, 2))
        servers[0].live()
        servers[0].num_probes = 0
        client = BalancedClient(servers, clock=clock)

    assert all(0.37 <= pause <= 0.64 for pause in pauses)
    assert len(pauses) > 1


async def test_a_server_that_came_back_gets_one_request_and_then_its_share(client, servers, clock):
    await kill_by_asking(client, servers[0])
    servers[0].live()
    num_before = servers[0].num_asked
    clock.now += 0.5
    await generate(client, ask())  # sends the probe on its way
    await settle()
    assert up(client) == "abc"

    # When many come together, one tries it out
    for server in servers:
        server.gate.clear()
    running = [asyncio.create_task(generate(client, ask(f"{number}"))) for number in range(12)]
    await settle()
    assert servers[0].num_asked - num_before == 1

    # And once that one is being answered, it is like the others
    servers[0].gate.set()
    await settle()
    servers[0].gate.clear()
    running += [asyncio.create_task(generate(client, ask(f"{number}!"))) for number in range(6)]
    await settle()
    assert servers[0].num_asked - num_before > 3
    for server in servers:
        server.gate.set()
    await asyncio.gather(*running)


async def test_a_server_whose_answers_break_three_times_in_a_row_is_left_out(client, servers):
    servers[0].fail_with, servers[0].fail_after = GenerationFailedError("raised"), 1
    num_failed = 0
    for number in range(60):
        try:
            await generate(client, ask(f"{number}"))
        except GenerationFailedError:
            num_failed += 1

    # Although it begins each answer and would else draw all requests by being done so soon
    assert (num_failed, servers[0].num_asked) == (3, 3)
    assert up(client) == "-bc"


async def test_a_probe_that_never_failed_does_not_cut_the_pause_short(client, servers, clock):
    # Given a server that says it is ready and fails whoever believes it
    servers[0].fail_with = EngineUnavailableError("refuses the API key")
    while "a" in up(client):
        await generate(client, ask(f"{servers[0].num_asked}{clock.now}"))
        clock.now += 0.01

    # When it is looked at, as the api does every second
    assert await client.is_ready()
    await settle()

    assert up(client) == "-bc"
    clock.now += 0.5
    assert await client.is_ready()
    await settle()
    assert up(client) == "abc"


async def test_a_server_seen_down_is_used_again_as_soon_as_it_is_seen_up(client, servers, clock):
    await kill_by_asking(client, servers[0])
    for _ in range(6):  # its pause is long by now
        clock.now += 20.0
        await client.is_ready()
        await settle()
    servers[0].live()
    clock.now += 1.0

    await client.is_ready()
    await settle()

    assert up(client) == "abc"


async def test_a_full_server_is_passed_over_until_it_said_to_come_again(client, servers, clock):
    error = EngineOverloadedError("full")
    error.retry_after_s = 7.0
    servers[0].fail_with = error
    for number in range(20):
        await generate(client, ask(f"{number}"))
    assert servers[0].num_asked == 1
    assert up(client) == "abc"

    clock.now += 7.0
    for number in range(20):
        await generate(client, ask(f"{number}"))
    assert servers[0].num_asked == 2


async def test_when_all_are_full_that_is_what_the_caller_hears(client, servers):
    for server in servers:
        server.fail_with = EngineOverloadedError("full")
    with pytest.raises(EngineOverloadedError):
        await generate(client, ask())

    # Even if the second one asked is broken: coming again later helps
    servers[1].die()
    servers[2].die()
    request = next(ask(f"{number}") for number in range(100) if _first_of(ask(f"{number}"), "abc") == "a")
    with pytest.raises(EngineOverloadedError):
        await generate(BalancedClient(servers), request)


def _first_of(request: GenerationRequest, urls: str) -> str:
    probe = BalancedClient([FakeServer(url) for url in urls])
    return probe._pick(affinity_key(request), estimate_cost(request), None).client.url  # type: ignore[union-attr]


# --- nobody left ----------------------------------------------------------------------------------------------------


async def test_with_all_down_the_error_says_which_and_why(client, servers):
    await kill_all(client, servers)

    with pytest.raises(EngineUnavailableError) as caught:
        await generate(client, ask())

    assert caught.value.message == "None of the engine's 3 servers is available."
    assert caught.value.detail == "a: connection refused; b: connection refused; c: connection refused"
    with pytest.raises(EngineUnavailableError, match="None of the engine's 3 servers"):
        await client.info()
    assert await client.is_ready() is False


async def test_with_all_down_nobody_is_refused_by_an_old_opinion(client, servers):
    # Given servers that were all dead a moment ago
    await kill_all(client, servers)

    # When one is back, before any pause is over
    servers[1].live()

    assert await asked(client, ask()) == "b"


async def test_many_who_find_all_down_share_one_probe_of_each(client, servers):
    await kill_all(client, servers)
    before = [server.num_probes for server in servers]

    results = await asyncio.gather(*(generate(client, ask(f"{n}")) for n in range(25)), return_exceptions=True)

    assert all(isinstance(result, EngineUnavailableError) for result in results)
    assert [server.num_probes - count for server, count in zip(servers, before, strict=True)] == [1, 1, 1]


async def kill_all(client: BalancedClient, servers: list[FakeServer]) -> None:
    """Let the client find out that every server is dead."""
    for server in servers:
        server.die()
    while up(client).strip("-"):
        with pytest.raises(EngineUnavailableError):
            await generate(client, ask())


async def test_a_server_that_hangs_holds_nobody_up_who_has_another(client, servers):
    servers[0].is_hanging = True

    assert await client.is_ready() is True

    servers[1].die()
    servers[2].die()
    servers[0].fail_with = EngineUnavailableError("gone")
    with pytest.raises(EngineUnavailableError):
        await generate(client, ask())
    servers[1].live()
    assert await asked(client, ask()) == "b"
    await client.aclose()  # the probe that hangs is no task left behind


# --- the rest -------------------------------------------------------------------------------------------------------


async def test_info_is_of_the_first_server_that_gives_it(client, servers):
    servers[0].readiness = ("waiting", "loading")

    assert (await client.info()).model == "b"
    assert up(client) == "-bc"


async def test_start_waits_for_one_server_only(client, servers):
    servers[0].is_hanging = True
    servers[1].readiness = ("failed", "no such folder")

    await client.start()

    assert up(client) == "a-c"
    servers[2].readiness = ("failed", "no such folder")
    servers[0].is_hanging, servers[0].readiness = False, ("failed", "broken")
    with pytest.raises(EngineUnavailableError) as caught:
        await client.start()
    assert caught.value.detail == "a: broken; b: no such folder; c: no such folder"


async def test_closing_an_answer_or_cancelling_its_caller_leaves_no_count_behind(client, servers):
    stream = client.stream(ask())
    await anext(stream)
    await stream.aclose()
    for server in servers:
        server.gate.clear()
    caller = asyncio.create_task(generate(client, ask()))
    await settle()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    assert [status.num_outstanding for status in client.status()] == [0, 0, 0]
    assert [backend.load for backend in client._backends] == [0, 0, 0]
    await client.aclose()
    assert all(server.is_closed for server in servers)


async def test_a_client_with_a_bug_is_a_server_that_is_down(client, servers, caplog):
    async def raise_(*_: object) -> tuple[Readiness, str]:
        raise KeyError("a bug")

    for server in servers:
        server.probe = raise_

    assert await client.is_ready() is False
    assert "a bug" in caplog.text


async def test_one_url_needs_no_balancer_and_none_is_an_error():
    assert isinstance(connect(["http://a:1"], timeout_s=1.0), EngineClient)
    assert isinstance(connect(["http://a:1", "unix:///b"], timeout_s=1.0), BalancedClient)
    with pytest.raises(ValueError, match="no engine URL"):
        connect(["http://a:1", "b"], timeout_s=1.0)
    with pytest.raises(ValueError, match="nothing to balance"):
        connect([], timeout_s=1.0)
