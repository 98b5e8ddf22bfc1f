"""Second turns: answers that are named by their id, thinking that is sent back, responses to go on from."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from router.api.objects import item_id
from tests.router.api.test_resume import run_job
from tests.support.servers import AppServer, RedisProcess

Json = dict[str, Any]


def ask(http: httpx.Client, *items: Json) -> httpx.Response:
    return http.post("/v1/responses", json={"model": "glowl", "input": list(items), "hybrid": {"route": "fast"}})


def user(text: str) -> Json:
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def turns(http: httpx.Client, response_id: str) -> list[tuple[str, str]]:
    found = http.get(f"/v1/responses/{response_id}/input_items", params={"order": "asc"}).json()["data"]
    return [(item["role"], item["content"][0]["text"]) for item in found]


@pytest.mark.parametrize("kind", [{"type": "item_reference"}, {"type": None}, {}])
def test_an_answer_that_is_named_by_its_id_is_a_turn(http: httpx.Client, kind: Json) -> None:
    first = ask(http, user("你好")).json()

    second = ask(http, user("你好"), {**kind, "id": first["output"][-1]["id"]}, user("再说一次")).json()

    assert turns(http, second["id"]) == [
        ("user", "你好"),
        ("assistant", first["output"][-1]["content"][0]["text"]),
        ("user", "再说一次"),
    ]


@pytest.mark.parametrize("draft_as", ["reasoning", "message", "events"])
def test_a_draft_that_is_named_or_sent_back_is_no_turn(
    http: httpx.Client, redis_process: RedisProcess, draft_as: Any
) -> None:
    steps = [("draft", "an "), ("deep", "two "), ("deep", "LOST"), ("deep", "two "), ("deep", "owl ")]
    job_id = asyncio.run(run_job(redis_process.url, steps, has_logprobs=False, draft_as=draft_as))
    draft, final = item_id(job_id, 0, draft_as), item_id(job_id, 1)
    thought = {"type": "reasoning", "id": "rs_x", "summary": [{"type": "summary_text", "text": "hm"}], "content": None}
    named = [{"type": "item_reference", "id": each} for each in (draft, final, final)]

    answer = ask(http, user("a"), thought, *named, user("b"))

    assert turns(http, answer.json()["id"]) == [("user", "a"), *[("assistant", "two owl ")] * 2, ("user", "b")]


@pytest.mark.parametrize("name", ["msg_" + "0" * 32 + "_1", "msg_in_0", "fc_1", ""])
def test_an_item_that_nobody_stored_is_a_400_that_says_where(http: httpx.Client, name: str) -> None:
    refused = ask(http, user("你好"), {"type": "item_reference", "id": name}, user("再说"))

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "item_not_found", "input[1].id")


def test_items_of_others_are_not_found(keyed_api: AppServer) -> None:
    with httpx.Client(base_url=keyed_api.url, timeout=300, trust_env=False) as http:
        alice, bob = ({"authorization": f"Bearer {key}"} for key in ("alice", "bob"))
        first = http.post("/v1/responses", json={"model": "glowl", "input": "你好"}, headers=alice).json()
        named = {"type": "item_reference", "id": first["output"][-1]["id"]}
        body = {"model": "glowl", "input": [named, user("再说")]}

        answers = [http.post("/v1/responses", json=body, headers=headers).status_code for headers in (alice, bob)]

    assert answers == [200, 400]


def test_a_previous_response_that_is_not_there_is_a_wrong_field(http: httpx.Client) -> None:
    for name in ("resp_" + "0" * 32, "chatcmpl-1", "x"):
        refused = http.post("/v1/responses", json={"model": "glowl", "input": "a", "previous_response_id": name})

        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, "previous_response_not_found")
        assert error["param"] == "previous_response_id"
        assert name in error["message"]


def test_items_of_an_unknown_kind_are_still_refused_by_name(http: httpx.Client) -> None:
    refused = ask(http, {"type": "computer_call_output", "call_id": "c", "output": "x"}, user("再说"))

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_value", "input[0].type")
    assert "'computer_call_output'" in error["message"]
    assert "'function_call_output'" in error["message"]
