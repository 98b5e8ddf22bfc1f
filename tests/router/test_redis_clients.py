"""The ways to a redis that others run: with TLS and certificates, as a user of its ACL, through sentinels.

All clients go each way: ours, Celery's, and the look that names what is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from router.cli.redis_check import look_at
from router.jobs.queue import JobQueue, create_celery
from router.redis_address import read
from router.redis_clients import make_client
from router.redis_master import MasterWatch
from router.redis_watch import WatchedPool
from router.settings import Settings
from tests.support.redis_rights import documented_rights
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


@pytest.fixture(scope="module")
def alone() -> Iterator[SentinelServers]:
    """A redis on TCP: over a unix socket redis-py does some things in another way."""
    servers = SentinelServers(num_redis=1, num_sentinels=0)
    try:
        servers.start("redis0")
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
    await redis.execute_command("ACL", "SETUSER", "glowl", "reset", "on", ">ge@heim", *documented_rights())
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

    async def test_nothing_waits_for_a_master_that_fell_silent_once_there_is_another(self) -> None:
        servers = SentinelServers(num_redis=2, down_after_ms=500)
        first = "redis0"
        try:
            servers.start()
            async with make_client(servers.url, timeout_s=GUARD_S) as client:
                # Given idle connections, and commands without an answer
                await asyncio.gather(*(client.set(f"glowl:{number}", "1") for number in range(5)))
                assert await client.execute_command("WAIT", 1, 30_000) >= 1
                servers.processes[first].child.send_signal(signal.SIGSTOP)
                waiting = [asyncio.create_task(client.get(f"glowl:{number}")) for number in range(2)]
                # When the sentinels name another master
                await asyncio.to_thread(wait_until, lambda: servers.master() != first, "the fail-over")
                # Then what waited for the old one ends, and all that comes is answered by the new one
                async with asyncio.timeout(GUARD_S / 2):
                    ends = await asyncio.gather(*waiting, return_exceptions=True)
                    assert {type(end) for end in ends} == {RedisConnectionError}
                    assert await asyncio.gather(*(client.get(f"glowl:{number}") for number in range(5))) == [b"1"] * 5
        finally:
            servers.processes[first].child.send_signal(signal.SIGCONT)
            servers.stop()

    async def test_a_crowd_of_new_connections_is_one_question_to_the_sentinels(self, servers: SentinelServers) -> None:
        def num_connections(client: redis_sync.Redis) -> int:
            return int(client.info("stats")["total_connections_received"])  # type: ignore[index]

        watch = MasterWatch(read(servers.url))
        with servers.client("sentinel0") as sentinel:
            before = num_connections(sentinel)
            assert len(set(await asyncio.gather(*(watch.ask() for _ in range(30))))) == 1
            # Those that other sentinels make may be among them
            assert num_connections(sentinel) - before < 10
        await watch.aclose()

    async def test_sentinels_that_say_nothing_keep_nobody_waiting(self, servers: SentinelServers) -> None:
        mutes = [Mutable() for _ in range(2)]
        for mute in mutes:
            mute.is_mute = True
        async with contextlib.AsyncExitStack() as stack:
            listening = [
                await stack.enter_async_context(await asyncio.start_server(m.serve, "127.0.0.1", 0)) for m in mutes
            ]
            hosts = ",".join(f"127.0.0.1:{each.sockets[0].getsockname()[1]}" for each in listening)
            known = read(servers.url)
            address = replace(known, sentinels=read(f"sentinel://{hosts}/{SERVICE}").sentinels + known.sentinels)
            watch = MasterWatch(address)
            # Two of five machines were stopped: they take connections, and answer nothing
            for _ in range(3):
                assert await watch.ask() == ("127.0.0.1", servers.ports[servers.master()])
            assert all(mute.num_connections for mute in mutes)
            await watch.aclose()

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


class Mutable:
    """A redis that answers everything with OK, until its connections are told to say nothing any more."""

    def __init__(self) -> None:
        self.num_connections = 0
        self.is_mute = False
        self._mute: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def mute(self) -> None:
        self._mute |= self._writers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._writers.add(writer)
        try:
            while data := await reader.read(4096):
                # One answer for each command, which begins with a line such as *3
                if not self.is_mute and writer not in self._mute:
                    writer.write(b"+OK\r\n" * data.count(b"*"))
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def test_after_one_connection_that_died_without_a_word_no_other_idle_one_is_tried() -> None:
    redis = Mutable()
    async with await asyncio.start_server(redis.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        # Given several connections, all idle
        async with make_client(
            f"redis://127.0.0.1:{port}?protocol=2&health_check_interval=0", timeout_s=GUARD_S
        ) as client:
            await asyncio.gather(*(client.set("a", "b") for _ in range(4)))
            assert redis.num_connections == 4
            # When all of them fall silent, and one command has waited for its timeout
            redis.mute()
            for connection in client.connection_pool._available_connections:
                connection.socket_timeout = 0.1
            with pytest.raises(RedisTimeoutError):
                await client.set("a", "b")
            # Then the next ones are answered, on new connections
            await asyncio.gather(*(client.set("a", "b") for _ in range(4)))
            assert redis.num_connections == 8


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["redis ended them", "after a timeout", "redis has moved"])
def test_connections_that_have_ended_fail_no_command(
    alone: SentinelServers, loop_factory: Callable[[], asyncio.AbstractEventLoop], how: str
) -> None:
    async def check() -> None:
        # Given idle connections that were ended, as by a restart of redis
        async with make_client(f"redis://127.0.0.1:{alone.ports['redis0']}", timeout_s=GUARD_S) as client:
            pool = client.connection_pool
            assert isinstance(pool, WatchedPool)
            await asyncio.gather(*(client.set("glowl:ended", "1") for _ in range(6)))
            if how == "after a timeout":
                pool.hang_up_idle()
            elif how == "redis has moved":
                pool.hang_up()
            else:
                with alone.client("redis0") as other:
                    other.client_kill_filter(_type="normal", skipme=True)
                async with asyncio.timeout(GUARD_S):
                    while not all(each._reader.at_eof() for each in pool._available_connections):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            # Then the next commands make new ones, instead of failing one each
            assert await asyncio.gather(*(client.set("glowl:ended", "2") for _ in range(6))) == [True] * 6

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(check())


async def again(work: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until redis answers."""
    async with asyncio.timeout(GUARD_S):
        while True:
            try:
                return await work()
            except RedisError:
                await asyncio.sleep(0.05)
