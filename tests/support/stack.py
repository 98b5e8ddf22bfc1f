"""The whole product as real processes: redis, apis, workers and echo engines, each of which can be killed and started.

Unlike the stack of the journeys nothing runs on a thread of the caller, so ``kill -9`` means what it says everywhere.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import redis

from router.cli.net import Address
from router.cli.processes import engine_argv
from router.cli.redis_server import find_redis, redis_argv, redis_url
from tests.support.servers import Process, free_port, wait_until

ROOT = Path(__file__).parents[2]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessStack:
    """Processes by name: ``redis``, ``glm``, ``owl2``, ``api0``..., ``worker0``...

    Args:
        num_apis: api processes, all on the same redis.
        workers: per worker process, the queues it takes; None takes all.
        delay_s: what an echo engine waits before each word; by name, those left out wait for nothing.
        prefill_s: what it waits before the first one, by name.
        env: variables for api and workers, over the defaults here.
        checkpoints: folders of real weights by engine, instead of echo engines.
    """

    def __init__(
        self,
        *,
        num_apis: int = 1,
        workers: Sequence[str | None] = (None,),
        delay_s: float | Mapping[str, float] = 0.0,
        prefill_s: Mapping[str, float] | None = None,
        env: Mapping[str, str] | None = None,
        checkpoints: Mapping[str, Path] | None = None,
    ) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="glowl-s"))
        sockets = {name: self.dir / f"{name}.sock" for name in ("redis", "glm", "owl2")}
        redis_at = Address(uds=sockets["redis"])
        self.redis_url = redis_url(redis_at)
        self.ports = [free_port() for _ in range(num_apis)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.env = {
            "REDIS_URL": self.redis_url,
            "GLOWL_GLM_URL": f"unix://{sockets['glm']}",
            "GLOWL_OWL2_URL": f"unix://{sockets['owl2']}",
            "GLOWL_DATA_DIR": str(self.dir),
            "GLOWL_ALLOW_PRIVATE_URLS": "true",
            "GLOWL_LOG_LEVEL": "WARNING",
            "GLOWL_CACHE_BYTES": "0",  # tests and benchmarks ask the same again and mean it
            "PYTHONPATH": str(ROOT),
            **(env or {}),
        }
        binary = find_redis({}).binary
        assert binary is not None
        python = sys.executable
        self._argv: dict[str, list[str]] = {"redis": list(redis_argv(binary, redis_at, self.dir))}
        for name in ("glm", "owl2"):
            word_s = delay_s.get(name, 0.0) if isinstance(delay_s, Mapping) else delay_s
            at = [name, str(sockets[name]), str(word_s), str((prefill_s or {}).get(name, 0.0))]
            self._argv[name] = [python, "-m", "tests.support.echo_server", *at]
        for name, folder in (checkpoints or {}).items():
            self._argv[name] = engine_argv(name, model=folder, device="cpu", uds=sockets[name])
        for index, port in enumerate(self.ports):
            self._argv[f"api{index}"] = [python, "-m", "router.cli", "api", "--port", str(port)]
        for index, queues in enumerate(workers):
            self.add_worker(f"worker{index}", queues)
        self.processes: dict[str, Process] = {}

    def add_worker(self, name: str, queues: str | None = None) -> None:
        """Make a further worker known; `start` starts it."""
        argv = [sys.executable, "-m", "router.cli", "worker", "--ready-file", str(self.dir / f"{name}.ready")]
        self._argv[name] = [*argv, "--queues", queues] if queues else argv

    def add_command(self, name: str, arguments: Sequence[str]) -> None:
        """Make any other Python program known; whether it is ready is the caller's to know."""
        self._argv[name] = [sys.executable, *arguments]

    @property
    def names(self) -> list[str]:
        """Of all processes, running or not."""
        return list(self._argv)

    def start(self, *names: str, env: Mapping[str, str] | None = None) -> None:
        """Start processes without waiting for them; redis first, since nothing can be asked before it answers."""
        for name in names or self.names:
            (self.dir / f"{name}.ready").unlink(missing_ok=True)
            self.processes[name] = Process(self._argv[name], self.dir / f"{name}.log", {**self.env, **(env or {})})
            if name == "redis":
                wait_until(lambda: self.is_ready("redis"), "redis")

    def wait_ready(self, *names: str) -> None:
        """Wait until processes do their work."""
        for name in names or list(self.processes):
            wait_until(lambda name=name: self.is_ready(name), f"{name}, see {self.dir / name}.log")  # type: ignore[misc]

    def is_ready(self, name: str) -> bool:
        """Whether a process does its work now.

        Raises:
            AssertionError: if it has ended by itself.
        """
        code = self.processes[name].child.poll()
        assert code is None, f"{name} ended with {code}, see {self.dir / name}.log"
        if name == "redis":
            with self.redis() as client:
                try:
                    return bool(client.ping())
                except redis.RedisError:
                    return False
        if name.startswith("worker"):
            return (self.dir / f"{name}.ready").exists()
        transport, url = None, "http://engine/readyz"
        if name.startswith("api"):
            url = f"{self.urls[int(name[3:])]}/readyz"
        else:
            path = str(self.dir / f"{name}.sock")
            with socket.socket(socket.AF_UNIX) as probe:
                # httpx forgets to close a unix socket that nobody listens on.
                if probe.connect_ex(path) != 0:
                    return False
            transport = httpx.HTTPTransport(uds=path)
        with httpx.Client(transport=transport, trust_env=False, verify=False, timeout=5) as http:
            try:
                answer = http.get(url)
            except httpx.HTTPError:
                return False
            return answer.status_code == 200 and "down" not in answer.json().get("engines", {}).values()

    def kill(self, name: str) -> None:
        """Kill with -9; nobody gets to say goodbye."""
        self.processes.pop(name).kill()

    def redis(self) -> redis.Redis:
        """Return a client of the stack's redis."""
        return redis.Redis.from_url(self.redis_url)

    def cpu_s(self, name: str) -> float:
        """CPU seconds that a process has used, its threads included."""
        fields = Path(f"/proc/{self.processes[name].child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def rss_bytes(self, name: str) -> int:
        """Resident memory of a process."""
        fields = Path(f"/proc/{self.processes[name].child.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def load_for(self, seconds: float) -> None:
        """Let echo engines that are started from now on take so long until they are ready, and then answer at once."""
        for name in ("glm", "owl2"):
            self._argv[name] = [*self._argv[name][:5], "0", "0", str(seconds)]

    def stop(self) -> None:
        """End everything, redis last, and forget its files."""
        self.end()
        shutil.rmtree(self.dir, ignore_errors=True)

    def end(self) -> None:
        """End everything, redis last, and keep its files: `start` goes on with them."""
        names = sorted(self.processes, key=lambda name: name == "redis")
        for name in names:
            if name != "redis":
                self.processes[name].child.terminate()
        deadline = time.monotonic() + 10
        for name in names:
            self.processes.pop(name).stop(max(deadline - time.monotonic(), 0.1))


class PocketStack(ProcessStack):
    """What `glowl up --models pocket` starts; skips where the checkpoints are not shipped."""

    # For the fixture that resets the echo engines of other stacks after each test.
    engines: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        from training.pocket.evaluate import DEFAULT_MODELS

        checkpoints = {name: DEFAULT_MODELS / name for name in ("glm", "owl2")}
        if not all((folder / "config.json").is_file() for folder in checkpoints.values()):
            pytest.skip("the pocket checkpoints are not here")
        # Tiny models on several threads wait for each other more than they compute. On a busy machine a draft is late.
        env = {
            "OMP_NUM_THREADS": "1",
            "GLOWL_AUDIT": "on",
            "GLOWL_CAPTURE": "local=pictures",
            "GLOWL_DRAFT_PATIENCE_S": "300",
        }
        super().__init__(checkpoints=checkpoints, env=env)
