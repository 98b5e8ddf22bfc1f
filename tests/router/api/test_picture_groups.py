"""More pictures than an engine takes, at the door. Here each engine takes 3 at a time, and a request 4."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.journeys.conftest import picture

WIDTHS = range(8, 12)


def ask(http: httpx.Client, number: int, text: str = "Which is the oldest?", **fields: Any) -> httpx.Response:
    content = [
        *({"type": "input_image", "image_url": picture("red", (width, 8))} for width in WIDTHS[:number]),
        {"type": "input_text", "text": text},
    ]
    headers = fields.pop("headers", {})
    body = {"model": "glowl", "input": [{"role": "user", "content": content}], "background": True, **fields}
    return http.post("/v1/responses", json=body, headers=headers)


def test_more_pictures_than_owl2_takes_become_groups(http: httpx.Client) -> None:
    response = ask(http, 4).json()

    hybrid = response["hybrid"]
    assert response["status"] == "queued"
    assert [branch["name"] for branch in hybrid["branches"]] == ["deep-1", "deep-2"]
    assert hybrid["groups"] == [
        {"branch": "deep-1", "pictures": [1, 2], "state": "queued"},
        {"branch": "deep-2", "pictures": [3, 4], "state": "queued"},
    ]
    assert hybrid["merge"] == "deep"


def test_that_glm_takes_too_few_for_a_draft_is_said(http: httpx.Client) -> None:
    response = ask(http, 4).json()

    said = "there is no draft: glm-4.6v-flash-echo takes at most 3 pictures, and 4 were sent"
    assert response["hybrid"]["degraded"] == [said]
    decision = http.get(f"/v1/jobs/{response['id']}").json()["decision"]
    assert decision["degraded_zh"] == ["没有草稿：glm-4.6v-flash-echo 最多接受 3 张图片，而发送了 4 张"]


def test_what_fits_is_answered_as_ever(http: httpx.Client) -> None:
    hybrid = ask(http, 3).json()["hybrid"]

    assert [branch["name"] for branch in hybrid["branches"]] == ["draft", "deep"]
    assert (hybrid["degraded"], "groups" in hybrid) == ([], False)


def test_who_names_owl2_gets_its_answer_alone_whatever_the_language(http: httpx.Client) -> None:
    hybrid = ask(http, 4, "哪一只最老？", model="mplug-owl2").json()["hybrid"]

    assert [branch["engine"] for branch in hybrid["branches"]] == ["owl2", "owl2"]
    assert (hybrid["merge"], hybrid["degraded"]) == ("deep", [])


def test_json_is_promised_where_glm_can_write_it_from_the_findings(http: httpx.Client) -> None:
    response = ask(http, 4, text="As JSON: which is the oldest?", hybrid={"template": "receipt"})
    hybrid = response.json()["hybrid"]

    assert response.status_code == 200
    assert hybrid["merge"] == "compose"
    assert not any("fields" in sentence for sentence in hybrid["degraded"])
    asked = ask(http, 4, hybrid={"template": "receipt", "merge": "fields"}).json()["hybrid"]
    assert asked["merge"] == "compose"
    assert asked["degraded"][-1].startswith("what is found in groups of pictures has no fields")


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", ['{"route": "deep"}', "at most 3"]), ("zh", ['{"route": "deep"}', "3 张"])],
)
@pytest.mark.parametrize("changes", [{"hybrid": {"route": "fast"}}, {"model": "glm-4.6v-flash"}])
def test_glm_alone_refuses_what_it_cannot_take_and_says_who_can(
    http: httpx.Client, language: str, words: list[str], changes: dict[str, Any]
) -> None:
    response = ask(http, 4, headers={"accept-language": language}, **changes)

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "too_many_images")
    assert all(word in error["message"] for word in words)


def test_a_conversation_gathers_no_more_pictures_than_a_request_may_have(http: httpx.Client) -> None:
    first = ask(http, 3, background=False, hybrid={"route": "fast"}).json()

    second = ask(http, 2, previous_response_id=first["id"])
    third = ask(http, 1, previous_response_id=first["id"])

    assert (second.status_code, second.json()["error"]["code"]) == (400, "too_many_images")
    assert "5 pictures" in second.json()["error"]["message"]
    assert [group["pictures"] for group in third.json()["hybrid"]["groups"]] == [[1, 2], [3, 4]]
