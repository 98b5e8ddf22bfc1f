"""Every alert, caused for real: an api and its redis in trouble, and a real Prometheus that reads the rules."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from redis.asyncio import Redis

from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from router.app import create_app
from router.jobs.store import JobStore
from router.settings import Settings
from router.webhooks.records import Attempt
from router.webhooks.store import WebhookStore
from tests.support.jobs import make_spec
from tests.support.servers import AppServer, Process, RedisProcess, free_port, wait_until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
LATE_S = 400.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is missing: apt install prometheus"),
]


@dataclass
class Place:
    """An api and its redis."""

    redis: RedisProcess
    api: AppServer


@dataclass
class Watched:
    """Two services whose queues nobody serves, the engines of both, and the Prometheus that watches them."""

    first: Place
    second: Place
    engines: dict[str, AppServer]
    port: int

    def ask(self, path: str, **asked: str) -> dict[str, Any]:
        """What Prometheus says; nothing while it starts."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=asked, trust_env=False, timeout=60)
        except httpx.HTTPError:
            return {}
        return dict(answer.json()["data"]) if answer.status_code == 200 else {}

    def firing(self) -> set[str]:
        """The alerts that fire now, by name."""
        found = self.ask("alerts").get("alerts", [])
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    def num_looks(self) -> float:
        """How often the apis were read so far."""
        found = self.ask("query", query='sum(count_over_time(up{job="glowl-api"}[1h]))').get("result")
        return float(found[0]["value"][1]) if found else 0.0


def serve_api(process: RedisProcess, urls: dict[str, str], folder: Path) -> AppServer:
    settings = {"REDIS_URL": process.url, "data_dir": folder, "allow_private_urls": True}
    return AppServer(create_app(Settings(glm_url=urls["glm"], owl2_url=urls["owl2"], **settings)))


def configure(folder: Path, targets: list[str]) -> Path:
    """Write the shipped rules without their waiting times, and a configuration that looks every few seconds."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
    times = {"scrape_interval": "2s", "scrape_timeout": "2s"}
    shipped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    authorization = {"credentials_file": str(DEPLOY / "no-key")}
    assert shipped["authorization"].keys() == authorization.keys()
    job = {"job_name": shipped["job_name"], "authorization": authorization, "static_configs": [{"targets": targets}]}
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump({"global": times, "rule_files": ["alerts.yml"], "scrape_configs": [job]}))
    return path


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    engines = {name: AppServer(create_engine_app(EchoEngine(name))) for name in ("glm", "owl2")}
    urls = {name: server.url for name, server in engines.items()}
    processes = [RedisProcess(), RedisProcess()]
    places = [Place(each, serve_api(each, urls, folder / str(number))) for number, each in enumerate(processes)]
    port = free_port()
    config = configure(folder, [f"127.0.0.1:{place.api.port}" for place in places])
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
    prometheus = Process([*argv, f"--web.listen-address=127.0.0.1:{port}"], folder / "prometheus.log")
    found = Watched(places[0], places[1], engines, port)

    wait_until(lambda: found.num_looks() >= 4, "prometheus")
    yield found
    prometheus.stop()
    for server in (*(place.api for place in places), *engines.values()):
        if server.is_running:
            server.stop()
    for process in processes:
        if process.child.poll() is None:
            process.stop()


async def leave_jobs_behind(url: str) -> None:
    """Let jobs wait that were accepted long ago, lose the workers of others, and fail to deliver webhooks."""
    async with Redis.from_url(url) as client:
        long_ago = time.time() - LATE_S
        before = JobStore(client, clock=lambda: long_ago)
        for _ in range(3):
            await before.create(make_spec())
        lost = JobStore(client, lease_s=0.001)
        for _ in range(4):
            job = await lost.create(make_spec())
            await lost.claim(job.id, "deep")  # the api's own reaper finds them
        for _ in range(120):
            job = await before.create(make_spec(webhook_url="http://127.0.0.1:9/nobody"))
            await before.cancel(job.id)
        webhooks = WebhookStore(client, configured_secrets=[])
        for _ in range(6):
            claim = await webhooks.take_next(lease_s=60)
            assert claim is not None
            attempt = Attempt(claim.number, time.time(), None, 1, "connection refused", "连接被拒绝")
            await webhooks.record(claim, attempt, retry_in_s=600.0)


def test_a_service_that_is_well_alarms_nobody(watched: Watched) -> None:
    # Without its waiting time, the first alert fires when a busy machine is late once.
    assert watched.firing() <= {"GlowlApiDown"}


def test_every_alert_fires_when_it_is_caused(watched: Watched) -> None:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    wanted = {rule["alert"] for group in groups for rule in group["rules"]}
    seen: set[str] = set()

    def has_fired(*names: str) -> bool:
        seen.update(watched.firing())
        return seen.issuperset(names)

    def ask() -> None:
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
        body = {"model": "glowl", "messages": [{"role": "user", "content": "hi"}], "response_format": schema}
        url = f"{watched.first.api.url}/v1/chat/completions"
        assert httpx.post(url, json=body, trust_env=False, timeout=60).status_code == 503
        url = f"{watched.first.api.url}/v1/files"
        refused = httpx.post(url, data={"purpose": "batch"}, files={"file": b"{}"}, trust_env=False, timeout=60)
        assert refused.json()["error"]["code"] == "storage_full"

    # Given jobs that nobody runs, webhooks that nobody takes, and hardly any memory left
    asyncio.run(leave_jobs_behind(watched.first.redis.url))
    with redis.Redis.from_url(watched.first.redis.url) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))
    # And engines and a redis that are gone
    for server in watched.engines.values():
        server.stop()
    watched.second.redis.stop()
    wait_until(lambda: has_fired("GlowlRedisDown", "GlowlEngineDown"), "redis and the engines to be missed")

    # And an api that answers for them with errors, and then another not at all
    def is_missed(name: str) -> bool:
        ask()
        return has_fired(name)

    wait_until(lambda: is_missed("GlowlErrors") and has_fired("GlowlStorageFull"), "errors to be seen")
    watched.second.api.stop()

    # Then each of the rules has fired
    wait_until(lambda: has_fired(*wanted), f"all of {sorted(wanted)}")
    assert seen == wanted
