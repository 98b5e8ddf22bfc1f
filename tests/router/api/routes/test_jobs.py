"""Jobs as operators see them: listed, looked into, begun again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from engines.base import GenerationFailedError
from engines.echo import EchoEngine
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from router.redis import PREFIX
from tests.journeys.conftest import picture
from tests.support.jobs import make_spec
from tests.support.servers import AppServer, RedisProcess

DEEP = {"model": "glowl", "input": "What colour is the owl?", "background": True}
FAILURE = {"code": "server_error", "message": "the card is on fire"}


@pytest.fixture(autouse=True)
def _empty(redis_process: RedisProcess) -> None:
    redis_process.flush()


def on_store(redis_process: RedisProcess, work: Callable[[JobStore], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        redis = Redis.from_url(redis_process.url)
        try:
            return await work(JobStore(redis))
        finally:
            await redis.aclose()

    return asyncio.run(run())


async def fail(store: JobStore, job_id: str) -> None:
    """Let every branch of a job fail, as workers would."""
    job = await store.get(job_id)
    assert job is not None
    for branch in job.spec.branches:
        epoch = await store.claim(job_id, branch.name) or 0
        await store.append(job_id, branch.name, epoch, "half")
        await store.finish(job_id, branch.name, epoch, UnitResult(error={**FAILURE, "status": 500, "retryable": False}))
    await store.complete(job_id, await store.claim(job_id, "merge") or 0, error=FAILURE)


def accept(http: httpx.Client, number: int = 1, **fields: Any) -> list[str]:
    return [http.post("/v1/responses", json={**DEEP, **fields}).json()["id"] for _ in range(number)]


def test_jobs_are_listed_newest_first_and_by_state_page_by_page(
    http: httpx.Client, redis_process: RedisProcess
) -> None:
    ids = accept(http, 5)
    on_store(redis_process, lambda store: fail(store, ids[1]))
    on_store(redis_process, lambda store: fail(store, ids[3]))

    everything = http.get("/v1/jobs").json()
    failed = http.get("/v1/jobs", params={"state": "failed"}).json()

    assert [job["id"] for job in everything["data"]] == ids[::-1]
    assert [(job["id"], job["failure"]["message"]) for job in failed["data"]] == [
        (ids[3], FAILURE["message"]),
        (ids[1], FAILURE["message"]),
    ]
    assert everything["data"][0]["question"] == DEEP["input"]
    pages: list[str] = []
    after, has_more = "", True
    while has_more:
        page = http.get("/v1/jobs", params={"limit": 2, "after": after}).json()
        pages += [job["id"] for job in page["data"]]
        after, has_more = page["last_id"], page["has_more"]
    assert pages == ids[::-1]


def test_fast_answers_that_are_stored_are_listed_too(http: httpx.Client) -> None:
    response_id = http.post("/v1/responses", json={"model": "glowl", "input": "你好"}).json()["id"]

    (job,) = http.get("/v1/jobs").json()["data"]

    assert (job["id"], job["route"], job["engines"], job["status"]) == (response_id, "fast", ["glm"], "completed")


def test_an_unknown_place_to_go_on_from_and_an_unknown_state_are_refused(http: httpx.Client) -> None:
    for query, param in [({"after": "resp_nobody"}, "after"), ({"state": "lost"}, "state"), ({"limit": "0"}, "limit")]:
        refused = http.get("/v1/jobs", params=query)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("kind", ["job", "response"])
def test_an_unknown_place_is_called_what_the_list_is_of(http: httpx.Client, kind: str) -> None:
    refused = http.get(f"/v1/{kind}s", params={"after": "x"}, headers={"accept-language": "en"})

    assert refused.json()["error"]["message"].startswith(f"There is no {kind} 'x' in the list")


def test_nobody_sees_or_retries_the_jobs_of_another(keyed_api: AppServer, redis_process: RedisProcess) -> None:
    alice, bob = (
        httpx.Client(base_url=keyed_api.url, headers={"Authorization": f"Bearer {name}"}, trust_env=False)
        for name in ("alice", "bob")
    )
    with alice, bob:
        (job_id,) = accept(alice)
        on_store(redis_process, lambda store: fail(store, job_id))

        assert bob.get("/v1/jobs").json()["data"] == []
        assert bob.get("/v1/jobs", params={"after": job_id}).status_code == 400
        assert bob.post(f"/v1/jobs/{job_id}/retry").status_code == 404
        assert alice.post(f"/v1/jobs/{job_id}/retry").status_code == 200


def test_what_expired_or_was_deleted_leaves_the_list(
    http: httpx.Client, redis_process: RedisProcess, redis_client: Any
) -> None:
    ids = accept(http, 12)
    http.delete(f"/v1/responses/{ids[0]}")
    redis_client.delete(*(f"{PREFIX}job:{job_id}" for job_id in ids[1:11]))

    assert [job["id"] for job in http.get("/v1/jobs").json()["data"]] == [ids[11]]
    assert redis_client.zcard(f"{PREFIX}jobs:local") == 1


def test_the_list_of_somebody_who_never_looks_at_it_does_not_grow(
    redis_process: RedisProcess, redis_client: Any
) -> None:
    # Given jobs that are gone as soon as they were accepted
    async def accept_and_lose(store: JobStore) -> None:
        for _ in range(200):
            spec = make_spec()
            await store.create(spec)
            await store.redis.delete(f"{PREFIX}job:{spec.id}")

    on_store(redis_process, accept_and_lose)

    assert redis_client.zcard(f"{PREFIX}jobs:local") <= 8
    assert 0 < redis_client.ttl(f"{PREFIX}jobs:local") <= 8 * 24 * 3600


def test_a_failed_job_is_begun_again_under_its_id_and_completes(
    http: httpx.Client, redis_process: RedisProcess
) -> None:
    (job_id,) = accept(http)
    on_store(redis_process, lambda store: fail(store, job_id))

    retried = http.post(f"/v1/jobs/{job_id}/retry").json()

    assert (retried["id"], retried["status"], retried["failure"], retried["completed_at"]) == (
        job_id,
        "queued",
        None,
        None,
    )
    assert [(unit["status"], unit["runs"], unit["failures"], unit["result"]) for unit in retried["units"]] == [
        ("queued", 1, 0, None)
    ] * len(retried["units"])

    # A run from before cannot write any more, and the new ones can
    async def work(store: JobStore) -> bool:
        was_accepted = await store.append(job_id, "deep", 1, "from before")
        for unit in retried["units"]:
            epoch = await store.claim(job_id, unit["name"]) or 0
            assert epoch == 2
            await store.append(job_id, unit["name"], epoch, "an owl")
            await store.finish(job_id, unit["name"], epoch, UnitResult(text="an owl", model="m"))
        merge = await store.claim(job_id, "merge") or 0
        await store.complete(job_id, merge, final=FinalAnswer("an owl", "m", "owl2", "deep"))
        return was_accepted

    assert on_store(redis_process, work) is False
    done = http.get(f"/v1/responses/{job_id}").json()
    assert (done["status"], done["error"], done["output"][-1]["content"][0]["text"]) == ("completed", None, "an owl")
    told = http.get(f"/v1/responses/{job_id}", params={"stream": "true"}).text
    assert "half" not in told
    assert told.count("response.completed") == 2  # the event's name and its type


def test_only_failed_jobs_are_begun_again(http: httpx.Client) -> None:
    queued, cancelled = accept(http, 2)
    http.post(f"/v1/responses/{cancelled}/cancel")

    for job_id, state in [(queued, "queued"), (cancelled, "cancelled")]:
        refused = http.post(f"/v1/jobs/{job_id}/retry")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "job_not_failed")
        assert state in refused.json()["error"]["message"]
        assert http.get(f"/v1/jobs/{job_id}").json()["status"] == state
    assert http.post("/v1/jobs/resp_nobody/retry").status_code == 404


def test_a_fast_answer_that_failed_can_be_begun_again_as_a_job(
    http: httpx.Client, echoes: dict[str, EchoEngine], redis_process: RedisProcess
) -> None:
    echoes["glm"].fail_with = GenerationFailedError("out of memory")
    echoes["glm"].fail_after_deltas = 1
    http.post("/v1/responses", json={"model": "glowl", "input": "你好", "stream": True})
    (failed,) = http.get("/v1/jobs", params={"state": "failed"}).json()["data"]

    retried = http.post(f"/v1/jobs/{failed['id']}/retry").json()

    assert (retried["status"], [unit["name"] for unit in retried["units"]]) == ("queued", ["fast"])
    assert on_store(redis_process, lambda store: store.claim(failed["id"], "fast")) == 2


def test_a_job_whose_pictures_are_gone_is_not_begun_again_in_vain(
    http: httpx.Client, redis_process: RedisProcess, redis_client: Any
) -> None:
    content = [{"type": "input_image", "image_url": picture("red")}, {"type": "input_text", "text": "Why?"}]
    (job_id,) = accept(http, input=[{"role": "user", "content": content}])
    on_store(redis_process, lambda store: fail(store, job_id))
    redis_client.delete(*redis_client.keys(f"{PREFIX}blob:*"))

    refused = http.post(f"/v1/jobs/{job_id}/retry")

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "image_file_not_found")
