"""Streams that are read again: by whom, from where, whatever happened to the events meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from engines.base import SamplingParams, TokenLogprob, Usage
from engines.echo import EchoEngine
from router.api.objects import MAX_POLL_MS, MIN_POLL_MS, item_id, to_poll_headers
from router.call import DraftAs
from router.direct import DirectAnswer
from router.jobs.job import Job
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.support.jobs import PAIR, make_spec
from tests.support.raw import send
from tests.support.servers import AppServer, RedisProcess, wait_until

Json = dict[str, Any]


def events_of(text: str) -> list[Json]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def read(http: httpx.Client, response_id: str, **query: Any) -> list[Json]:
    answer = http.get(f"/v1/responses/{response_id}", params={"stream": "true", **query})
    assert answer.status_code == 200
    return events_of(answer.text)


Step = tuple[str, str]
# What may happen to the two branches of a job, in any order: words, and workers that die.
STEPS = st.lists(
    st.tuples(st.sampled_from(["draft", "deep"]), st.sampled_from(["an ", "owl ", "two ", "LOST"])), max_size=12
)


async def run_job(redis_url: str, steps: list[Step], *, has_logprobs: bool, draft_as: DraftAs = "message") -> str:
    """Write the record that such a run of a job leaves behind."""
    redis = Redis.from_url(redis_url)
    store = JobStore(redis, max_attempts=100)
    spec = make_spec(sampling=SamplingParams(top_logprobs=0 if has_logprobs else None), draft_as=draft_as)
    await store.create(spec)
    epochs = {branch.name: await store.claim(spec.id, branch.name) or 0 for branch in PAIR}
    said = {branch.name: "" for branch in PAIR}
    tokens: dict[str, tuple[TokenLogprob, ...]] = {branch.name: () for branch in PAIR}
    for unit, word in steps:
        if word == "LOST":
            await store.release(spec.id, unit, epochs[unit], "failure")
            epochs[unit] = await store.claim(spec.id, unit) or 0
            said[unit], tokens[unit] = "", ()
            continue
        token = (TokenLogprob(word, -0.5, word.encode()),) if has_logprobs else ()
        await store.append(spec.id, unit, epochs[unit], word, token)
        said[unit] += word
        tokens[unit] += token
    for unit, epoch in epochs.items():
        await store.finish(spec.id, unit, epoch, UnitResult(text=said[unit], model="m", logprobs=tokens[unit]))
    merge = await store.claim(spec.id, "merge") or 0
    final = FinalAnswer(said["deep"], "m", "owl2", "deep", usage=Usage(1, 2), logprobs=tokens["deep"])
    await store.complete(spec.id, merge, final=final)
    await redis.aclose()
    return spec.id


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS, has_logprobs=st.booleans(), draft_as=st.sampled_from(["reasoning", "message", "events", "none"]))
def test_from_wherever_a_stream_is_resumed_it_is_the_tail_of_the_whole(
    http: httpx.Client, redis_process: RedisProcess, steps: list[Step], has_logprobs: bool, draft_as: DraftAs
) -> None:
    response_id = asyncio.run(run_job(redis_process.url, steps, has_logprobs=has_logprobs, draft_as=draft_as))

    whole = read(http, response_id)

    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    polled = http.get(f"/v1/responses/{response_id}").json()
    if draft_as != "message" and whole[-1]["type"] == "error":
        assert whole[-1]["code"] == "answer_restarted"
    else:
        # Whatever was begun again, and said something else, a poll shows the ids that the stream announced.
        assert whole[-1]["type"] == "response.completed"
        assert polled == whole[-1]["response"]
        announced = {event["item"]["id"] for event in whole if event["type"] == "response.output_item.added"}
        announced |= {event["item_id"] for event in whole if event["type"] == "hybrid.draft.added"}
        shown = {polled["output"][-1]["id"], polled["hybrid"]["draft"]["item_id"]}
        assert shown <= {*announced, item_id(response_id, 0, draft_as)}
    for after in range(len(whole)):
        assert read(http, response_id, starting_after=after) == whole[after + 1 :]


@pytest.mark.parametrize(
    "body",
    [
        {"input": "图里有什么？"},
        {"input": "图里有什么？", "top_logprobs": 0, "include": ["message.output_text.logprobs"]},
    ],
)
def test_the_stream_of_a_fast_answer_is_read_again_event_for_event(http: httpx.Client, body: Json) -> None:
    first = events_of(http.post("/v1/responses", json={"model": "glowl", "stream": True, **body}).text)
    response_id = first[0]["response"]["id"]

    assert len(first) >= 9  # what arrives together is told together
    for after in range(-1, len(first)):
        assert read(http, response_id, starting_after=after) == first[after + 1 :]


def test_how_it_ended_is_told_even_if_the_record_has_fewer_events_than_the_stream_had(
    http: httpx.Client, redis_process: RedisProcess, redis_client: Any
) -> None:
    # Given a finished job whose events are gone, and a caller who had read many of them
    steps = [("deep", "an ")] * 12
    response_id = asyncio.run(run_job(redis_process.url, steps, has_logprobs=False))
    cut_at = len(read(http, response_id)) - 2
    redis_client.delete(f"{PREFIX}events:{response_id}")

    rest = read(http, response_id, starting_after=cut_at)

    assert [(event["type"], event["sequence_number"]) for event in rest] == [("response.completed", cut_at + 1)]
    assert rest[0]["response"]["output"][-1]["content"][0]["text"] == "an " * 12


def test_two_apis_give_one_stream_while_the_job_runs(
    http: httpx.Client, keyless_twin: AppServer, redis_process: RedisProcess
) -> None:
    # Given a job in the queue, followed at two api processes
    response_id = http.post("/v1/responses", json={"model": "glowl", "input": "Why?", "background": True}).json()["id"]
    streams: dict[str, list[Json]] = {}

    def follow(base_url: str) -> None:
        with httpx.Client(base_url=base_url, timeout=300, trust_env=False) as client:
            streams[base_url] = read(client, response_id)

    urls = [str(http.base_url), keyless_twin.url]
    threads = [threading.Thread(target=follow, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()

    async def work() -> None:
        redis = Redis.from_url(redis_process.url)
        store = JobStore(redis)
        job = await store.get(response_id)
        assert job is not None
        for branch in job.spec.branches:
            epoch = await store.claim(response_id, branch.name) or 0
            for word in ("an ", "owl"):
                await store.append(response_id, branch.name, epoch, word)
            await store.finish(response_id, branch.name, epoch, UnitResult(text="an owl", model="m"))
        merge = await store.claim(response_id, "merge") or 0
        await store.complete(response_id, merge, final=FinalAnswer("an owl", "m", "owl2", "deep"))
        await redis.aclose()

    asyncio.run(work())
    for thread in threads:
        thread.join(300)

    one, other = (streams[url] for url in urls)
    assert one == other
    assert one[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"store": True, "messages": [{"role": "user", "content": "你好"}]}),
        ("/v1/responses", {"input": "你好"}),
    ],
)
def test_the_id_that_a_stream_announced_is_found_after_hanging_up(
    api: AppServer, http: httpx.Client, echoes: dict[str, EchoEngine], path: str, body: Json
) -> None:
    # Given a caller who hangs up after a few words
    echoes["glm"].delta_delay_s = 0.05
    connection = send(api, path, {"model": "glowl", "stream": True, **body})
    received = b""
    while b"pictures" not in received:
        received += connection.recv(65536)
    connection.close()
    response_id = "resp_" + received.partition(b'"resp_')[2][:32].decode()

    found = wait_until(
        lambda: (found := http.get(f"/v1/responses/{response_id}").json())["status"] != "in_progress" and found,
        "the record",
    )

    assert (found["status"], found["output"]) == ("cancelled", [])
    told = read(http, response_id)
    said = "".join(event["delta"] for event in told if event["type"].endswith("text.delta"))
    assert said.startswith("[echo glm]")
    assert told[-1]["response"]["status"] == "cancelled"


@pytest.mark.parametrize(("language", "said"), [("zh-CN", "服务器内部出错"), ("en", "Something went wrong")])
def test_what_goes_wrong_in_a_stream_is_said_in_the_callers_language(
    api: AppServer, monkeypatch: pytest.MonkeyPatch, http: httpx.Client, language: str, said: str
) -> None:
    async def keep(*_arguments: Any) -> None:
        raise KeyError("not foreseen")

    monkeypatch.setattr(DirectAnswer, "_keep", keep)
    headers = {"Accept-Language": language}
    body = {"model": "glowl", "store": True, "stream": True, "messages": [{"role": "user", "content": "你好"}]}

    chat = http.post("/v1/chat/completions", json=body, headers=headers)
    response = http.post("/v1/responses", json={"model": "glowl", "input": "你好", "stream": True}, headers=headers)

    assert said in events_of(chat.text.replace("data: [DONE]", ""))[-1]["error"]["message"]
    assert said in events_of(response.text)[-1]["message"]


def test_input_items_are_paged(client: openai.OpenAI, http: httpx.Client) -> None:
    turns: list[Any] = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": str(index)} for index in range(5)
    ]
    response = client.responses.create(
        model="glowl", input=turns, instructions="short", extra_body={"hybrid": {"route": "fast"}}
    )

    newest = [item.content[0].text for item in client.responses.input_items.list(response.id, limit=2)]
    oldest = [item.content[0].text for item in client.responses.input_items.list(response.id, order="asc", limit=4)]

    assert newest == ["4", "3", "2", "1", "0", "short"]
    assert oldest == newest[::-1]
    page = http.get(f"/v1/responses/{response.id}/input_items", params={"limit": 2, "order": "asc"}).json()
    assert (len(page["data"]), page["has_more"], page["last_id"]) == (2, True, page["data"][1]["id"])
    last = http.get(
        f"/v1/responses/{response.id}/input_items", params={"after": page["last_id"], "order": "asc"}
    ).json()
    assert (len(last["data"]), last["has_more"]) == (4, False)
    refused = http.get(f"/v1/responses/{response.id}/input_items", params={"after": "msg_nobody"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


def test_every_poll_of_an_unfinished_response_says_when_to_ask_again(http: httpx.Client) -> None:
    body = {"model": "glowl", "input": "Why?", "hybrid": {"async": "auto", "route": "deep"}}
    created = http.post("/v1/responses", json=body)
    polled = http.get(f"/v1/responses/{created.json()['id']}")
    cancelled = http.post(f"/v1/responses/{created.json()['id']}/cancel")

    assert created.json()["background"] is False
    for answer in (created, polled):
        assert MIN_POLL_MS <= int(answer.headers["openai-poll-after-ms"]) <= MAX_POLL_MS
    assert "openai-poll-after-ms" not in cancelled.headers


@pytest.mark.parametrize(("eta_ms", "expected"), [(0, MIN_POLL_MS), (3000, 1500), (10**9, MAX_POLL_MS)])
def test_the_time_to_ask_again_follows_from_what_is_left(eta_ms: float, expected: int) -> None:
    spec = make_spec()
    job = Job(spec, "queued", {})

    assert to_poll_headers(job, eta_ms)["openai-poll-after-ms"] == str(expected)
