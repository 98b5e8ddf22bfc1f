"""The ways to a redis that others run: with TLS and certificates, as a user of its ACL, through sentinels.

All clients go each way: ours, Celery's, and the look that names what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync
from redis.asyncio import Redis
from redis.exceptions import RedisError

from router.cli.redis_check import look_at
from router.jobs.queue import JobQueue, create_celery
from router.redis_clients import make_client
from router.settings import Settings
from tests.support.sentinels import SERVICE, SentinelServers
from tests.support.servers import RedisProcess, wait_until
from tests.support.tls import TlsProxy, make_certificates

pytestmark = pytest.mark.e2e

GUARD_S = 60.0


async def use(url: str) -> None:
    """Write, read and queue there."""
    async with make_client(url, timeout_s=GUARD_S) as client:
        assert await client.set("glowl:test", "1")
        assert await client.get("glowl:test") == b"1"
    queue = JobQueue(create_celery(Settings(REDIS_URL=url)))  # type: ignore[call-arg]
    before = await queue.num_waiting("glm")
    await queue.send_tickets({"glm": 1})
    assert await queue.num_waiting("glm") == before + 1


async def problem(url: str) -> str:
    found = await look_at(url, timeout_s=GUARD_S)
    assert bool(found.problem) is not bool(found.version)
    if found.problem:
        for language in ("en", "zh"):
            assert "geheim" not in found.say(url, language)
    return found.problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def proxy(folder: Path, redis_process: RedisProcess) -> Iterator[TlsProxy]:
    proxy = TlsProxy(folder, redis_process.socket)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def servers() -> Iterator[SentinelServers]:
    servers = SentinelServers(password="geheim", sentinel_password="auch-geheim", down_after_ms=500)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


class TestTls:
    async def test_every_client_knows_the_server_and_is_known_by_its_certificate(
        self, proxy: TlsProxy, folder: Path
    ) -> None:
        files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem", "ssl_keyfile": "client.key"}
        query = "&".join(f"{option}={folder / name}" for option, name in files.items())
        await use(f"rediss://localhost:{proxy.port}/2?{query}")
        assert await problem(f"rediss://localhost:{proxy.port}/2?{query}") == ""

    async def test_each_way_in_which_certificates_are_wrong_has_its_sentence(
        self, proxy: TlsProxy, folder: Path
    ) -> None:
        ca = f"ssl_ca_certs={folder}/ca.pem"
        for query, said in (
            (ca, "redis.tls.client"),
            ("ssl_check_hostname=true", "redis.tls.certificate"),
            (f"ssl_ca_certs={folder}/none.pem", "redis.tls.file"),
            (f"{ca}&ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/server.key", "redis.tls.file"),
        ):
            assert await problem(f"rediss://localhost:{proxy.port}?{query}") == said
        assert await problem(f"rediss://127.0.0.1:{proxy.port}?{ca}") == "redis.tls.hostname"
        # And Celery does not go on without a look at the certificate
        with pytest.raises(redis_sync.RedisError, match="CERTIFICATE_VERIFY_FAILED"):
            create_celery(Settings(REDIS_URL=f"rediss://localhost:{proxy.port}")).connection().channel()  # type: ignore[call-arg]


async def test_a_user_needs_no_more_than_its_own_keys(redis_process: RedisProcess, redis: Redis) -> None:
    rules = ["~glowl:*", "&glowl:*", "+@all", "-@dangerous", "-@admin", "+info"]
    await redis.execute_command("ACL", "SETUSER", "glowl", "reset", "on", ">ge@heim", *rules)
    try:
        await use(f"unix://glowl:ge%40heim@{redis_process.socket}?db=1")
        assert await problem(f"unix://glowl:ge%40heim@{redis_process.socket}?db=1") == ""
        assert await problem(f"unix://glowl:falsch@{redis_process.socket}?db=1") == "redis.password.wrong"
    finally:
        await redis.execute_command("ACL", "DELUSER", "glowl")


class TestSentinels:
    async def test_all_go_on_with_the_new_master_once_the_old_one_is_killed(self, servers: SentinelServers) -> None:
        queue = JobQueue(create_celery(Settings(REDIS_URL=servers.url)))  # type: ignore[call-arg]
        async with make_client(servers.url, timeout_s=GUARD_S) as client:
            # Given connections, more than one, to the first master
            await use(servers.url)
            await asyncio.gather(*(client.set(f"glowl:{number}", "1") for number in range(5)))
            assert await client.execute_command("WAIT", 1, 30_000) >= 1
            first = servers.master()
            # When it is killed
            servers.kill(first)
            await asyncio.to_thread(wait_until, lambda: servers.master() != first, "the fail-over")
            # Then the next commands, all of them, and the next tickets are the new one's
            assert await again(lambda: client.get("glowl:0")) == b"1"
            await asyncio.gather(*(client.set(f"glowl:{number}", "2") for number in range(5)))
            assert await queue.num_waiting("glm") == 1
            await queue.send_tickets({"glm": 1})
            assert await queue.num_waiting("glm") == 2

    async def test_each_way_in_which_sentinels_are_no_help_has_its_sentence(self, servers: SentinelServers) -> None:
        url = servers.url
        assert await problem(url) == ""
        for wrong, said in (
            (url.replace("=auch-geheim", "=geheim"), "redis.sentinels.password"),
            (url.replace("?sentinel_password=auch-geheim", ""), "redis.sentinels.password"),
            (url.replace(":geheim@", ":falsch@"), "redis.password.wrong"),
            (url.replace(f"/{SERVICE}", "/another"), "redis.sentinels.service"),
            (f"sentinel://127.0.0.1:1/{SERVICE}", "redis.sentinels.away"),
            (f"redis://:auch-geheim@127.0.0.1:{servers.ports['sentinel0']}", "redis.sentinel"),
        ):
            assert await problem(wrong) == said
        # One that is away is passed over
        assert await problem(url.replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1", 1)) == ""

    async def test_what_is_no_sentinel_is_told_so(self) -> None:
        servers = SentinelServers(num_redis=1, num_sentinels=0)
        try:
            servers.start("redis0")
            assert await problem(f"sentinel://127.0.0.1:{servers.ports['redis0']}/m") == "redis.sentinels.none"
        finally:
            servers.stop()


async def again(work: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until redis answers."""
    async with asyncio.timeout(GUARD_S):
        while True:
            try:
                return await work()
            except RedisError:
                await asyncio.sleep(0.05)
