"""What a caller sees of a job that waits: its place, its deadline, and a full queue. No worker runs here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from router.app import create_app
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess, wait_until

DEEP: dict[str, Any] = {"model": "mplug-owl2", "input": "What is this?", "background": True}


@pytest.fixture(autouse=True)
def _empty(redis_process: RedisProcess) -> None:
    redis_process.flush()


def create(http: httpx.Client, **fields: Any) -> Any:
    response = http.post("/v1/responses", json={**DEEP, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_every_poll_says_how_many_are_before(http: httpx.Client) -> None:
    jobs = [create(http) for _ in range(3)]
    urgent = create(http, service_tier="priority", hybrid={"route": "deep"})
    patient = create(http, service_tier="flex")

    assert [job["hybrid"]["queue"] for job in jobs] == [{"position": n, "eta_ms": None} for n in (1, 2, 3)]
    places = [http.get(f"/v1/responses/{job['id']}").json()["hybrid"]["queue"] for job in (*jobs, urgent, patient)]
    assert [place["position"] for place in places] == [2, 3, 4, 1, 5]
    cancelled = http.post(f"/v1/responses/{jobs[0]['id']}/cancel").json()
    assert "queue" not in cancelled["hybrid"]


def test_a_deadline_that_passes_in_the_queue_ends_the_job(http: httpx.Client, client: openai.OpenAI) -> None:
    job = create(http, hybrid={"deadline_ms": 400, "route": "deep"})

    ended = wait_until(lambda: (r := client.responses.retrieve(job["id"])).status == "failed" and r, "the deadline")

    assert ended.error.code == "deadline_exceeded"
    events = http.get(f"/v1/responses/{job['id']}?stream=true").text
    assert "response.failed" in events


def test_who_waits_for_an_answer_is_told_of_the_deadline_in_their_language(http: httpx.Client) -> None:
    body = {**DEEP, "background": False, "hybrid": {"deadline_ms": 400, "route": "deep"}}

    response = http.post("/v1/responses", json=body, headers={"accept-language": "zh"})

    assert response.status_code == 504
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("deadline_exceeded", "hybrid.deadline_ms")
    assert not error["message"].isascii()


@pytest.fixture
def narrow(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[httpx.Client]:
    settings = Settings(
        REDIS_URL=redis_process.url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"], max_unfinished_jobs=2
    )
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as client:
        yield client
    server.stop()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_one_job_too_many_is_a_429_that_says_when_to_come_back(narrow: httpx.Client, language: str) -> None:
    jobs = [create(narrow) for _ in range(2)]

    refused = narrow.post("/v1/responses", json=DEEP, headers={"accept-language": language})

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")
    assert error["message"].isascii() == (language == "en")
    narrow.post(f"/v1/responses/{jobs[0]['id']}/cancel")
    create(narrow)


def test_the_docs_page_describes_the_place_in_the_queue(http: httpx.Client) -> None:
    page = http.get("/openapi.json").json()

    hybrid = page["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    hybrid = page["components"]["schemas"][hybrid["$ref"].rpartition("/")[2]]
    assert hybrid["properties"]["hybrid"] == {"$ref": "#/components/schemas/HybridAnswer"}
    place = page["components"]["schemas"]["HybridAnswer"]["properties"]["queue"]
    assert place["$ref"] == "#/components/schemas/QueuePlace"
    assert set(page["components"]["schemas"]["QueuePlace"]["properties"]) == {"position", "eta_ms"}
    get = page["paths"]["/v1/responses/{response_id}"]["get"]["responses"]["200"]
    assert get["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Response"}
