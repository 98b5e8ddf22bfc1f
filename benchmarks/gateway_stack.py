"""The processes of the gateway benchmark: the upstream, and the gateways in front of it, all up at the same time.

In: which gateways. Out: each started and answering, with the time that took and the memory it then has.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.gateway_peers import MODEL
from tests.support.servers import Process, RedisProcess, free_port

KEY: Final = "sk-benchmark-0123456789abcdef"
NAMED: Final = "glm-4.6v-flash"
_BEARER: Final = {"authorization": f"Bearer {KEY}"}
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_START_S: Final = 180.0
_LOOK_S: Final = 0.02
# After its first answer a server still frees what it needed to start.
_SETTLE_S: Final = 1.0


@dataclass
class Gateway:
    """One server under test.

    Attributes:
        name: shown.
        port: where it listens.
        process: started by us.
        model: what is asked for, unless there are several pictures: then the one model that answers those at once.
        headers: of each request.
        boot_s: from the start of the process to its first good answer.
        idle_bytes: resident memory of its processes after that.
    """

    name: str
    port: int
    process: Process
    model: str = NAMED
    headers: dict[str, str] = field(default_factory=dict)
    boot_s: float = 0.0
    idle_bytes: int = 0

    @property
    def pids(self) -> list[int]:
        """Its processes, children included."""
        found = [self.process.child.pid]
        for pid in found:
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in path.read_text().split()]
        return found

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        total = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory now."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * os.sysconf("SC_PAGE_SIZE")

    def wait(self) -> None:
        """Wait for a first good answer, and note how long it took and what memory there is.

        Raises:
            RuntimeError: if none comes.
        """
        began = time.monotonic()
        body = orjson.dumps({"model": self.model, "messages": [{"role": "user", "content": "你好"}], "max_tokens": 8})
        headers = {"content-type": "application/json", **self.headers}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        while True:
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
                    answer.read()
                break
            except OSError as error:
                if time.monotonic() - began > _START_S or self.process.child.poll() is not None:
                    raise RuntimeError(f"{self.name} does not answer, see {self.process.log}: {error}") from error
                time.sleep(_LOOK_S)
        self.boot_s = time.monotonic() - began
        time.sleep(_SETTLE_S)
        self.idle_bytes = self.rss_bytes()


class Stack:
    """Starts gateways one after another, so that none slows another's start.

    Args:
        folder: for logs and configuration.
        only: parts of the names of those that are wanted; empty for all.
    """

    def __init__(self, folder: Path, only: list[str]) -> None:
        self._folder = folder
        self._only = [each.lower() for each in only]
        self._processes: list[Process] = []
        port = free_port()
        self._upstream = f"http://127.0.0.1:{port}"
        self.gateways: list[Gateway] = []
        self.direct = Gateway("upstream", port, self._peer("upstream", port))
        self.direct.wait()

    def add_ours(self, name: str, env: dict[str, str], checkout: Path | None = None, **fields: Any) -> None:
        """Start Glowl's api with some settings, and a redis for it; the code is that of a checkout."""
        if self._wants(name):
            port = free_port()
            argv = ["-m", "router.cli", "api", "--port", str(port)]
            process = self._ours(f"ours-{port}", argv, env, checkout or Path.cwd())
            self._add(Gateway(name, port, process, **fields))

    def add_pair(self, names: tuple[str, str], metrics: tuple[str, str], env: dict[str, str], **fields: Any) -> None:
        """Start two of Glowl's apis in one process, and a redis for them; each with metrics ``on`` or ``off``."""
        ports = [free_port(), free_port()]
        given = [f"{port}={way}" for port, way in zip(ports, metrics, strict=True)]
        process = self._ours(f"pair-{ports[0]}", ["-m", "benchmarks.metrics_apis", *given], env, Path.cwd())
        for name, port in zip(names, ports, strict=True):
            self._add(Gateway(name, port, process, **fields))

    def add_peer(self, name: str, what: str) -> None:
        """Start one of the bare pass-throughs."""
        if self._wants(name):
            port = free_port()
            self._add(Gateway(name, port, self._peer(what, port, self._upstream)))

    def add_litellm(self, python: Path) -> None:
        """Start LiteLLM's proxy: a master key, one worker, no database, its telemetry off."""
        if self._wants("LiteLLM proxy"):
            port, config = free_port(), self._folder / "litellm.yaml"
            config.write_text(
                f"model_list:\n  - model_name: {NAMED}\n    litellm_params:\n"
                f"      model: openai/{MODEL}\n      api_base: {self._upstream}/v1\n      api_key: none\n"
                f"general_settings:\n  master_key: {KEY}\nlitellm_settings:\n  telemetry: false\n"
            )
            argv = [str(python.parent / "litellm"), "--config", str(config), "--port", str(port), "--num_workers", "1"]
            process = self._start("litellm", argv, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
            self._add(Gateway("LiteLLM proxy", port, process, headers=_BEARER))

    def add_vllm_router(self, command: Path) -> None:
        """Start vllm-router, which is Rust."""
        if self._wants("vllm-router"):
            port = free_port()
            options = ["--worker-urls", self._upstream, "--prometheus-port", str(free_port()), "--port", str(port)]
            self._add(Gateway("vllm-router", port, self._start("vllm-router", [str(command), *options], {}), MODEL))

    def stop(self) -> None:
        """End everything, redis last."""
        for process in reversed(self._processes):
            process.stop()

    def _wants(self, name: str) -> bool:
        return not self._only or any(each in name.lower() for each in self._only)

    def _add(self, gateway: Gateway) -> None:
        gateway.wait()
        self.gateways.append(gateway)

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> Process:
        process = Process(argv, self._folder / f"{name}.log", {"PYTHONPATH": str(Path.cwd()), **env})
        self._processes.append(process)
        return process

    def _ours(self, name: str, argv: list[str], env: dict[str, str], checkout: Path) -> Process:
        redis = RedisProcess()
        self._processes.append(redis)
        urls = {"GLOWL_GLM_URL": self._upstream, "GLOWL_OWL2_URL": self._upstream, "REDIS_URL": redis.url}
        source = {"PYTHONPATH": str(checkout.resolve()), "PYTHONSAFEPATH": "1"}
        return self._start(name, [sys.executable, *argv], {**urls, "GLOWL_DATA_DIR": str(redis.dir), **source, **env})

    def _peer(self, what: str, *arguments: object) -> Process:
        argv = [sys.executable, "-m", "benchmarks.gateway_peers", what, *map(str, arguments)]
        return self._start(f"{what}-{arguments[0]}", argv, {})
