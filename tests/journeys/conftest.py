"""The whole product in one place: api and echo engines on threads, a Celery worker and redis as real processes."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from router.app import create_app
from router.settings import Settings
from tests.support.servers import AppServer, Process, RedisProcess, start_worker, wait_until
from tests.support.stack import PocketStack


def picture(colour: str, size: tuple[int, int] = (64, 48)) -> str:
    """A data URL of a one-colour PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Stack:
    """Handles on everything that runs."""

    redis: RedisProcess
    engines: dict[str, EchoEngine]
    servers: dict[str, AppServer]
    api: AppServer
    worker: Process
    env: dict[str, str]
    dir: Path

    @cached_property
    def client(self) -> openai.OpenAI:
        """The unmodified client, without retries of its own, so that a failure shows."""
        return openai.OpenAI(base_url=self.api.url + "/v1", api_key="unused", max_retries=0)

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.api.url, timeout=300, trust_env=False)

    def stop_engine(self, name: str) -> None:
        self.servers[name].stop()

    def start_engine(self, name: str) -> None:
        """Start a fresh engine where the old one was."""
        self.engines[name] = EchoEngine(name)
        self.servers[name] = AppServer(create_engine_app(self.engines[name]), uds=self.servers[name].uds)

    def restart_worker(self) -> None:
        self.worker = start_worker(self.env, self.dir / "worker.log")

    def wait_for_health(self, **expected: str) -> None:
        """Wait until the api sees the engines as expected."""
        with self.http as http:
            wait_until(lambda: expected.items() <= http.get("/readyz").json()["engines"].items(), f"engines {expected}")

    def wait_for(self, response_id: str, *states: str) -> Any:
        """Poll a response until it is in one of the states."""

        def look() -> Any:
            response = self.client.responses.retrieve(response_id)
            return response if response.status in states else None

        return wait_until(look, f"{response_id} to be {states}")


@pytest.fixture(scope="module")
def stack(redis_process: RedisProcess, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The product.

    A module's `LEASE_S` says after how much silence of its worker a run is another's, and its `DRAFT_PATIENCE_S` how
    long an answer waits for a late draft: long where drafts are what a test is about, since a machine may be busy.
    """
    lease_s: float = getattr(request.module, "LEASE_S", 1.5)
    draft_patience_s: float = getattr(request.module, "DRAFT_PATIENCE_S", 2.0)
    redis_process.flush()
    folder = Path(tempfile.mkdtemp(prefix="glowl-j"))
    engines = {name: EchoEngine(name) for name in ("glm", "owl2")}
    servers = {
        name: AppServer(create_engine_app(engine), uds=str(folder / f"{name}.sock")) for name, engine in engines.items()
    }
    env = {
        "REDIS_URL": redis_process.url,
        "GLOWL_GLM_URL": servers["glm"].url,
        "GLOWL_OWL2_URL": servers["owl2"].url,
        "GLOWL_LEASE_S": str(lease_s),
        "GLOWL_DRAFT_PATIENCE_S": str(draft_patience_s),
        "GLOWL_ALLOW_PRIVATE_URLS": "true",
        "GLOWL_WEBHOOK_DELAYS_S": "0.2",
        "GLOWL_WEBHOOK_TIMEOUT_S": "2",
    }
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=servers["glm"].url,
        owl2_url=servers["owl2"].url,
        lease_s=lease_s,
        draft_patience_s=draft_patience_s,
        allow_private_urls=True,
    )
    api = AppServer(create_app(settings))
    stack = Stack(redis_process, engines, servers, api, start_worker(env, folder / "worker.log"), env, folder)
    stack.wait_for_health(glm="up", owl2="up")
    yield stack
    stack.client.close()
    api.stop()
    for server in servers.values():
        server.stop()
    stack.worker.stop()


@pytest.fixture(scope="package")
def pocket_stack() -> Iterator[PocketStack]:
    """The shipped models as processes, started once for all who ask them."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    stack = PocketStack()
    stack.start()
    stack.wait_ready()
    yield stack
    stack.stop()


@pytest.fixture(autouse=True)
def _fast_engines(stack: Stack) -> Iterator[None]:
    yield
    for engine in stack.engines.values():
        engine.delta_delay_s = 0.0
        engine.fail_with = None
