"""Every way of not connecting to a redis has its own sentence; none has a part of the password."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router.cli.net import free_port
from router.cli.redis_check import look_at
from router.cli.redis_server import find_redis
from router.cli.texts import TEXTS
from tests.support.servers import wait_until

PASSWORD = "geheim"
GUARD_S = 30.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a real redis that needs a password."""
    with server(tmp_path_factory.mktemp("guarded"), "--requirepass", PASSWORD) as where:
        yield where


@contextlib.contextmanager
def server(folder: Path, *options: str) -> Iterator[str]:
    port = free_port("127.0.0.1")
    argv = [str(find_redis({}).binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([*argv, *options], stdout=subprocess.DEVNULL)
    try:
        listens = f"redis://127.0.0.1:{port}"
        wait_until(lambda: asyncio.run(look_at(listens, timeout_s=GUARD_S)).problem != "redis.refused", "redis")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(GUARD_S)


@contextlib.asynccontextmanager
async def says(data: bytes, *, closes: bool = True, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that answers everything with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                writer.write(data)
                if closes:
                    break
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def problem(url: str, timeout_s: float = GUARD_S) -> str:
    found = await look_at(url, timeout_s=timeout_s)
    assert bool(found.version) is not bool(found.problem)
    assert PASSWORD not in found.detail
    return found.problem


async def test_a_redis_that_wants_a_password_says_which_way_it_is_wrong(guarded: str) -> None:
    assert (await look_at(f"redis://:{PASSWORD}@{guarded}/0")).version
    assert await problem(f"redis://{guarded}/0") == "redis.password.missing"
    assert await problem(f"redis://:falsch@{guarded}/0") == "redis.password.wrong"
    assert await problem(f"redis://somebody:{PASSWORD}@{guarded}/0") == "redis.password.wrong"
    assert await problem(f"redis://:{PASSWORD}@{guarded}/99") == "redis.db"
    assert await problem(f"rediss://:{PASSWORD}@{guarded}/0", timeout_s=0.5) == "redis.tls.unwanted"


def test_a_replica_and_a_cluster_are_told_from_a_redis_that_takes_jobs(tmp_path: Path) -> None:
    for options, said in (
        (("--replicaof", "127.0.0.1 1"), "redis.replica"),
        # Its second port is the first plus 10000 otherwise, which may be no port.
        (("--cluster-enabled", "yes", "--cluster-port", str(free_port("127.0.0.1"))), "redis.cluster"),
    ):
        with server(tmp_path, *options) as where:
            assert asyncio.run(problem(f"redis://{where}")) == said


def test_a_master_with_fewer_replicas_than_must_confirm_is_found(tmp_path: Path) -> None:
    with server(tmp_path) as master:
        url = f"redis://{master}"
        # Given one replica
        with server(tmp_path, "--replicaof", master.replace(":", " ")):

            def look(num_replicas: int) -> tuple[str, str]:
                found = asyncio.run(look_at(url, timeout_s=GUARD_S, num_replicas=num_replicas))
                return found.problem, found.detail

            wait_until(lambda: look(1) == ("", ""), "the replica")
            # Then it is enough for one that must confirm, and not for three
            assert look(3) == ("redis.replicas", "1 < 3")


def test_a_redis_that_may_lose_accepted_jobs_is_named(tmp_path: Path) -> None:
    keeping = ("--appendonly", "yes", "--maxmemory", "512mb")
    for number, (options, risk) in enumerate(
        (
            ((*keeping, "--maxmemory-policy", "noeviction"), ("", "")),
            ((*keeping, "--maxmemory-policy", "allkeys-lru"), ("doctor.redis.evicts", "allkeys-lru")),
            # Without a limit it evicts nothing, whatever its policy is.
            (("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"), ("", "")),
            (("--appendonly", "no"), ("doctor.redis.forgets", "")),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with server(folder, *options) as where:
            found = asyncio.run(look_at(f"redis://{where}", timeout_s=GUARD_S))
            assert found.version
            assert (found.risk, found.detail) == risk


async def test_what_the_system_refuses_is_told_apart(tmp_path: Path) -> None:
    assert await problem(f"redis://127.0.0.1:{free_port('127.0.0.1')}") == "redis.refused"
    assert await problem(f"unix://{tmp_path}/none.sock") == "redis.socket.missing"
    (tmp_path / "file").touch()
    assert await problem(f"unix://{tmp_path}/file") == "redis.refused"
    assert await problem("redis://no-such-host.invalid") == "redis.host"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "redis.loading"),
        (b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n", "redis.protected"),
        (b"-ERR max number of clients reached\r\n", "redis.clients"),
        (b"-NOPERM User x has no permissions to run the 'ping' command\r\n", "redis.user"),
        (b"-NOAUTH Authentication required.\r\n", "redis.password.missing"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "redis.other"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "redis.other"),
        (b"", "redis.closed"),
    ],
)
async def test_what_a_server_says_is_told_apart(data: bytes, said: str) -> None:
    async with says(data) as where:
        assert await problem(f"redis://{where}") == said


async def test_a_server_that_says_nothing_is_one_that_is_too_slow() -> None:
    async with says(b"", closes=False) as where:
        assert await problem(f"redis://{where}", timeout_s=0.2) == "redis.silent"


async def test_a_server_with_tls_is_told_from_one_that_hangs_up(tmp_path: Path) -> None:
    # Given a server whose certificate nobody signed
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    if (await asyncio.to_thread(subprocess.run, [*made, *files], capture_output=True)).returncode != 0:
        pytest.skip("openssl is not here to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with says(b"+PONG\r\n", tls=context) as where:
        # Then a plain connection is told to use TLS, and one with TLS that the certificate is the problem
        assert await problem(f"redis://{where}", timeout_s=30.0) == "redis.tls.wanted"
        assert await problem(f"rediss://{where}", timeout_s=30.0) == "redis.tls.certificate"


def test_each_has_a_sentence_in_both_languages() -> None:
    sentences = [text for key, text in TEXTS.items() if key.startswith("redis.") and "{url}" in text.en]
    assert len({text.en for text in sentences}) == len({text.zh for text in sentences}) == len(sentences) > 20
