"""A redis with replicas, and the sentinels that watch them: real servers on loopback, each of which can be killed.

In: how many. Out: `SentinelServers`, whose ``url`` the product takes.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import redis

from router.cli.redis_server import find_redis
from tests.support.servers import Process, free_port, wait_until

SERVICE = "glowl-test"


class SentinelServers:
    """Servers by name: ``redis0`` (the first master), ``redis1``..., ``sentinel0``...

    Args:
        num_redis: the master and its replicas.
        num_sentinels: most of them must agree that the master is down.
        down_after_ms: how long a server may be silent.
        password: of the redis servers; empty for none.
        sentinel_password: of the sentinels; likewise.
        min_replicas: a master with fewer refuses writes.
        tls: folder of `tests.support.tls.make_certificates`; all speak TLS alone, and want a client's certificate.
        binary: the server's; None for the one that `glowl up` would start, which may have no TLS.
    """

    def __init__(
        self,
        *,
        num_redis: int = 2,
        num_sentinels: int = 3,
        down_after_ms: int = 1000,
        password: str = "",
        sentinel_password: str = "",
        min_replicas: int = 0,
        tls: Path | None = None,
        binary: Path | None = None,
    ) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="glowl-n"))
        self.ports = {f"redis{number}": free_port() for number in range(num_redis)}
        self.ports |= {f"sentinel{number}": free_port() for number in range(num_sentinels)}
        self._password, self._sentinel_password = password, sentinel_password
        self._min_replicas = min_replicas
        self._num_sentinels = num_sentinels
        self._tls = tls
        self._binary = str(binary or find_redis({}).binary)
        self.processes: dict[str, Process] = {}
        for number in range(num_sentinels):
            self._configure(f"sentinel{number}", down_after_ms)

    @property
    def url(self) -> str:
        """For `REDIS_URL`."""
        hosts = ",".join(f"127.0.0.1:{port}" for name, port in self.ports.items() if name.startswith("sentinel"))
        login = f":{self._password}@" if self._password else ""
        options = {"sentinel_password": self._sentinel_password} if self._sentinel_password else {}
        if self._tls is not None:
            options |= {name: str(value) for name, value in self._tls_options.items()}
        scheme = "sentinels" if self._tls is not None else "sentinel"
        return f"{scheme}://{login}{hosts}/{SERVICE}{'?' if options else ''}{urlencode(options)}"

    def start(self, *names: str) -> None:
        """Start servers and wait until they answer; all of them without names, and until they know each other."""
        for name in names or self.ports:
            self.processes[name] = Process(self._argv(name), self.dir / f"{name}.log")
            wait_until(lambda name=name: self._answers(name), name)  # type: ignore[misc]
        if not names:
            wait_until(self.is_complete, "the sentinels to know each other and the replicas")

    def is_complete(self) -> bool:
        """Whether every sentinel knows the others, and a master with all its replicas in touch with it."""
        for name in self.ports:
            if name.startswith("sentinel"):
                with self.client(name) as client:
                    state: Any = client.sentinel_masters().get(SERVICE, {})  # type: ignore[union-attr]
                num_redis = len(self.ports) - self._num_sentinels
                if state.get("num-slaves") != num_redis - 1 or state.get("is_master_down"):
                    return False
                if state.get("num-other-sentinels") != self._num_sentinels - 1:
                    return False
        return self.num_replicas() == num_redis - 1

    def num_replicas(self) -> int:
        """How many replicas are in touch with the master."""
        with self.client(self.master()) as client:
            return self.count_replicas(client)

    @staticmethod
    def count_replicas(client: redis.Redis) -> int:
        """The same, of the server that a client is connected to."""
        info: Any = client.info("replication")
        return sum(1 for name, row in info.items() if name.startswith("slave") and row_is_online(row))

    def master(self) -> str:
        """Return the name of the server that most recently was made master, as the first sentinel that answers says."""
        for name in self.ports:
            if name.startswith("sentinel"):
                with contextlib.suppress(redis.RedisError), self.client(name) as client:
                    port = client.sentinel_masters()[SERVICE]["port"]  # type: ignore[index]
                    return next(name for name, its in self.ports.items() if its == port)
        raise AssertionError("no sentinel answers")

    def client(self, name: str) -> redis.Redis:
        """Return a client of one server."""
        password = self._sentinel_password if name.startswith("sentinel") else self._password
        tls: dict[str, Any] = {"ssl": True, **self._tls_options} if self._tls is not None else {}
        return redis.Redis(port=self.ports[name], password=password or None, socket_timeout=5, **tls)

    @property
    def _tls_options(self) -> dict[str, Any]:
        """Of clients; the sentinels name servers by an address, which is in no certificate."""
        assert self._tls is not None
        files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem", "ssl_keyfile": "client.key"}
        return {**{option: str(self._tls / name) for option, name in files.items()}, "ssl_check_hostname": False}

    def _listening(self, name: str) -> dict[str, str]:
        """Options of a server."""
        if self._tls is None:
            return {"port": str(self.ports[name])}
        own = {"cert-file": "server.pem", "key-file": "server.key", "ca-cert-file": "ca.pem"}
        files = {f"tls-{option}": str(self._tls / file) for option, file in own.items()}
        return {"port": "0", "tls-port": str(self.ports[name]), **files, "tls-replication": "yes"}

    def kill(self, name: str) -> None:
        """Kill with -9."""
        self.processes.pop(name).kill()

    def stop(self) -> None:
        """End all, and forget their files."""
        for name in sorted(self.processes, reverse=True):
            self.processes.pop(name).kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _answers(self, name: str) -> bool:
        with contextlib.suppress(redis.RedisError), self.client(name) as client:
            return bool(client.ping())
        return False

    def _argv(self, name: str) -> list[str]:
        if name.startswith("sentinel"):
            return [self._binary, str(self.dir / f"{name}.conf"), "--sentinel"]
        folder = self.dir / name
        folder.mkdir(exist_ok=True)
        argv = [self._binary, "--bind", "127.0.0.1", "--dir", str(folder)]
        argv += [word for option, value in self._listening(name).items() for word in (f"--{option}", value)]
        argv += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--repl-diskless-sync-delay", "0"]
        argv += ["--min-replicas-to-write", str(self._min_replicas), "--min-replicas-max-lag", "10"]
        if self._password:
            argv += ["--requirepass", self._password, "--masterauth", self._password]
        # One that comes back is made a replica by the sentinels, if another is master now.
        if name != "redis0":
            argv += ["--replicaof", "127.0.0.1", str(self.ports["redis0"])]
        return argv

    def _configure(self, name: str, down_after_ms: int) -> None:
        quorum = self._num_sentinels // 2 + 1
        lines = [
            *(f"{option} {value}" for option, value in self._listening(name).items()),
            "bind 127.0.0.1",
            f"dir {self.dir}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports['redis0']} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        if self._password:
            lines.append(f"sentinel auth-pass {SERVICE} {self._password}")
        if self._sentinel_password:
            lines += [f"requirepass {self._sentinel_password}"]
        (self.dir / f"{name}.conf").write_text("\n".join(lines) + "\n")


def row_is_online(row: Any) -> bool:
    """Whether a row of ``INFO replication`` is of a replica that takes what the master writes."""
    return isinstance(row, dict) and row.get("state") == "online"
