"""What the page's history and policy lab need of the API: lists that can be narrowed, titles, decisions made again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from router.app import create_app
from router.settings import Settings
from tests.journeys.conftest import picture
from tests.support.servers import AppServer, RedisProcess

ONE = {"authorization": "Bearer one"}
TWO = {"authorization": "Bearer two"}


@pytest.fixture(scope="module")
def keyed(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[httpx.Client]:
    """An api for two owners, whose lists are empty before and after."""
    redis_process.flush()
    settings = Settings(
        REDIS_URL=redis_process.url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"], api_keys="one,two"
    )
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as client:
        yield client
    server.stop()
    redis_process.flush()


@pytest.fixture(scope="module")
def asked(keyed: httpx.Client) -> list[str]:
    """The ids of five answered questions of one owner, oldest first: three of one conversation, two of another."""
    ids = []
    for number, conversation in enumerate("aabba"):
        content: list[dict[str, Any]] = [{"type": "input_text", "text": f"What colour is owl number {number}?"}]
        if number == 4:
            content.insert(0, {"type": "input_image", "image_url": picture("red")})
        body = {
            "model": "glowl",
            "input": [{"role": "user", "content": content}],
            "metadata": {"conversation": conversation},
            "hybrid": {"route": "fast"},
        }
        ids.append(keyed.post("/v1/responses", json=body, headers=ONE).json()["id"])
    return ids


def listed(http: httpx.Client, path: str, headers: dict[str, str] = ONE, **query: str | int) -> list[str]:
    """All pages of a list, two or so at a time."""
    found: list[str] = []
    query = {"limit": 2, **query}
    while True:
        page = http.get(path, params=query, headers=headers).json()
        found += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/jobs"])
@pytest.mark.parametrize("name", ["status", "order", "State", "metadata", "metadata.conversation", "metadata[]"])
def test_a_filter_that_a_list_does_not_know_is_refused_with_the_known_ones(
    keyed: httpx.Client, path: str, name: str
) -> None:
    refused = keyed.get(path, params={name: "failed"}, headers={**ONE, "accept-language": "en"})

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", name)
    assert "state, " in error["message"]
    assert "metadata[KEY]" in error["message"]


def test_the_version_that_azures_clients_send_narrows_nothing(keyed: httpx.Client, asked: list[str]) -> None:
    assert listed(keyed, "/v1/responses", **{"api-version": "2024-10-21"}) == asked[::-1]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/jobs"])
def test_lists_are_narrowed_by_pairs_and_by_words(keyed: httpx.Client, asked: list[str], path: str) -> None:
    newest_first = asked[::-1]
    assert listed(keyed, path) == newest_first
    assert listed(keyed, path, **{"metadata[conversation]": "a"}) == [asked[4], asked[1], asked[0]]
    assert listed(keyed, path, q="OWL number 3") == [asked[3]]
    assert listed(keyed, path, q="owl", **{"metadata[conversation]": "b"}) == [asked[3], asked[2]]
    assert listed(keyed, path, q="eagle") == []
    assert listed(keyed, path, **{"metadata[other]": "a"}) == []
    # And nothing of it is anybody else's
    assert listed(keyed, path, TWO) == []
    assert listed(keyed, path, TWO, q="owl") == []


def test_a_listed_response_is_whole_and_has_its_last_turn(keyed: httpx.Client, asked: list[str]) -> None:
    newest = keyed.get("/v1/responses", params={"limit": 1}, headers=ONE).json()["data"][0]
    whole = keyed.get(f"/v1/responses/{newest['id']}", headers=ONE).json()
    assert {name: newest[name] for name in whole} == whole
    (turn,) = newest["input"]
    assert [part["type"] for part in turn["content"]] == ["input_image", "input_text"]
    summary = keyed.get("/v1/jobs", params={"limit": 1}, headers=ONE).json()["data"][0]
    assert (summary["num_images"], summary["metadata"]) == (1, {"conversation": "a"})
    assert summary["queue"] is None


def test_a_title_can_be_given_found_and_taken_away(keyed: httpx.Client, asked: list[str]) -> None:
    # Given a response that gets a title
    metadata = {"conversation": "b", "title": "Snowy owls"}
    named = keyed.post(f"/v1/responses/{asked[3]}", json={"metadata": metadata}, headers=ONE)
    assert named.json()["metadata"] == metadata
    # Then it is there wherever the response is read, and can be searched for
    assert keyed.get(f"/v1/responses/{asked[3]}", headers=ONE).json()["metadata"] == metadata
    assert listed(keyed, "/v1/responses", q="snowy") == [asked[3]]
    # And somebody else can neither see nor change it
    assert keyed.post(f"/v1/responses/{asked[3]}", json={"metadata": {}}, headers=TWO).status_code == 404
    # And pairs are bounded as at the beginning
    refused = keyed.post(f"/v1/responses/{asked[3]}", json={"metadata": {"title": 3}}, headers=ONE)
    assert refused.json()["error"]["param"] == "metadata.title"
    keyed.post(f"/v1/responses/{asked[3]}", json={"metadata": {"conversation": "b"}}, headers=ONE)
    assert listed(keyed, "/v1/responses", q="snowy") == []


def test_presets_are_listed_and_decide(keyed: httpx.Client) -> None:
    presets = {each["id"]: each for each in keyed.get("/v1/presets", headers=ONE).json()["data"]}
    assert presets["seed"]["is_active"]
    assert not presets["glm-only"]["is_active"]
    assert "several-pictures" in presets["seed"]["rules"] or len(presets["seed"]["rules"]) > 3
    question = {"messages": [{"role": "user", "content": "Which owl in the tree left of the barn is the largest?"}]}
    routes = {
        name: keyed.post("/v1/route", json={**question, "preset": name}, headers=ONE).json()
        for name in ("seed", "glm-only")
    }
    assert [routes[name]["engine"] for name in ("seed", "glm-only")] == ["owl2", "glm"]
    assert routes["glm-only"]["preset"] == "glm-only"
    assert routes["seed"]["features"]["language"] == "en"
    refused = keyed.post("/v1/route", json={**question, "preset": "no-such"}, headers=ONE).json()["error"]
    assert (refused["param"], "seed" in refused["message"]) == ("preset", True)


def test_a_stored_response_is_decided_again(keyed: httpx.Client, asked: list[str]) -> None:
    # Given a question with a picture, which was sent the fast way by its caller
    again = keyed.post("/v1/route", json={"response_id": asked[4]}, headers=ONE).json()
    # Then the policy alone decides now, from the words and the pictures as they were
    assert (again["features"]["num_new_images"], again["features"]["requested_route"]) == (1, "auto")
    assert again["route"] == "deep"
    assert keyed.post("/v1/route", json={"response_id": asked[4]}, headers=TWO).status_code == 404
    assert keyed.post("/v1/route", json={}, headers=ONE).status_code == 400


def test_an_unfinished_job_is_listed_with_its_place(http: httpx.Client, redis_process: RedisProcess) -> None:
    # Given two jobs that no worker takes
    redis_process.flush()
    body = {"model": "glowl", "input": "Why?", "background": True, "hybrid": {"route": "deep"}}
    ids = [http.post("/v1/responses", json=body).json()["id"] for _ in range(2)]
    jobs = {each["id"]: each for each in http.get("/v1/jobs").json()["data"]}
    assert [jobs[each]["queue"]["position"] for each in ids] == [1, 2]
    assert {unit["status"] for unit in jobs[ids[0]]["units"]} == {"queued"}
    response = http.get("/v1/responses", params={"limit": 1}).json()["data"][0]
    assert response["hybrid"]["queue"]["position"] == 2
    redis_process.flush()
