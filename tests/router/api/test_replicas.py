"""With GLOWL_REDIS_WAIT, an id is given out once so many replicas have what it stands for; if not, it is taken back."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from router import lua
from router.app import create_app
from router.settings import Settings
from tests.support.sentinels import SentinelServers
from tests.support.servers import AppServer, paused, wait_until

pytestmark = pytest.mark.e2e

DEEP = {"model": "glowl", "input": "What is this?", "background": True, "hybrid": {"route": "deep"}}


@pytest.fixture(scope="module")
def pair() -> Iterator[SentinelServers]:
    """A redis with one replica, and nobody who would swap them."""
    servers = SentinelServers(num_redis=2, num_sentinels=0)
    try:
        servers.start("redis0", "redis1")
        wait_until(lambda: replicas_of(servers) == 1, "the replica")
        yield servers
    finally:
        servers.stop()


def replicas_of(servers: SentinelServers) -> int:
    with servers.client("redis0") as client:
        return servers.count_replicas(client)


@pytest.fixture(scope="module")
def careful(pair: SentinelServers, echo_urls: dict[str, str]) -> Iterator[httpx.Client]:
    url = f"redis://127.0.0.1:{pair.ports['redis0']}/0"
    settings = Settings(REDIS_URL=url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"], redis_wait=1)
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client
    server.stop()


def listed(http: httpx.Client) -> set[str]:
    return {each["id"] for path in ("/v1/responses", "/v1/files") for each in http.get(path).json()["data"]}


def test_what_is_announced_is_on_the_replica(careful: httpx.Client, pair: SentinelServers) -> None:
    # Given a redis that has forgotten the scripts, as one that was just made master
    with pair.client("redis0") as client:
        client.script_flush()

    job = careful.post("/v1/responses", json=DEEP)
    file = careful.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}\n")})

    assert (job.status_code, file.status_code) == (200, 200)
    with pair.client("redis1") as replica:
        assert replica.exists(f"glowl:job:{job.json()['id']}")
        assert [key for key in replica.scan_iter("glowl:*") if file.json()["id"].encode() in key]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_a_silent_replica_does_not_have_is_refused_and_taken_back(
    careful: httpx.Client, pair: SentinelServers, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lua, "_REPLICAS_MS", 200)
    before = listed(careful)
    replica = pair.processes["redis1"].child
    with paused(replica.pid):
        refused = careful.post("/v1/responses", json=DEEP, headers={"accept-language": language})
        file = careful.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}\n")})
        # A fast answer is given all the same, and says that it is not stored
        fast = careful.post("/v1/responses", json={"model": "glowl", "input": "你好", "hybrid": {"route": "fast"}})

    assert (refused.status_code, file.status_code, fast.status_code) == (503, 503, 200)
    error = refused.json()["error"]
    assert error["code"] == "queue_unavailable"
    assert "GLOWL_REDIS_WAIT" in error["message"]
    assert error["message"].isascii() == (language == "en")
    assert int(refused.headers["retry-after"]) >= 1
    assert fast.json()["hybrid"]["degraded"]

    wait_until(lambda: listed(careful) == before, "the job and the file to be taken back")
    wait_until(lambda: careful.get(f"/v1/responses/{fast.json()['id']}").status_code == 404, "the fast one likewise")


def test_full_and_wrong_are_told_apart_as_without_replicas(careful: httpx.Client, pair: SentinelServers) -> None:
    with pair.client("redis0") as client:
        client.config_set("maxmemory", 1)
        try:
            refused = careful.post("/v1/responses", json=DEEP)
        finally:
            client.config_set("maxmemory", 0)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_full")
