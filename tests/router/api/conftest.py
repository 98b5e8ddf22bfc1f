"""An api with echo engines and a redis, and no worker: for everything that is decided before a job runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import redis

from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from router.app import create_app
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess


@pytest.fixture(scope="package")
def echoes() -> dict[str, EchoEngine]:
    return {name: EchoEngine(name, context_tokens=200, max_images=3) for name in ("glm", "owl2")}


@pytest.fixture(autouse=True)
def _obedient_echoes(echoes: dict[str, EchoEngine]) -> Iterator[None]:
    yield
    for echo in echoes.values():
        echo.delta_delay_s = 0.0
        echo.fail_with = None
        echo.fail_after_deltas = 0


@pytest.fixture(scope="package")
def echo_urls(echoes: dict[str, EchoEngine]) -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="glowl-a"))
    servers = {name: AppServer(create_engine_app(echo), uds=str(folder / name)) for name, echo in echoes.items()}
    yield {name: server.url for name, server in servers.items()}
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="package")
def api(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[AppServer]:
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        max_body_bytes=300_000,
        max_image_bytes=100_000,
        max_image_pixels=1_000_000,
        max_images=4,
    )
    server = AppServer(create_app(settings))
    yield server
    server.stop()


@pytest.fixture
def http(api: AppServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api.url, timeout=300, trust_env=False) as client:
        yield client


@pytest.fixture
def client(api: AppServer) -> Iterator[openai.OpenAI]:
    """The unmodified client, without retries of its own, so that a failure shows."""
    with openai.OpenAI(base_url=api.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="package")
def keyless_twin(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[AppServer]:
    """Another api process beside `api`."""
    settings = Settings(REDIS_URL=redis_process.url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"])
    server = AppServer(create_app(settings))
    yield server
    server.stop()


@pytest.fixture
def redis_client(redis_process: RedisProcess) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_process.url) as client:
        yield client


@pytest.fixture(scope="package")
def keyed_api(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[AppServer]:
    settings = Settings(
        REDIS_URL=redis_process.url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"], api_keys=("alice", "bob")
    )
    server = AppServer(create_app(settings))
    yield server
    server.stop()
