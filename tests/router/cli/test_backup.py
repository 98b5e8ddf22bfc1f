"""`glowl backup` and `glowl restore`: which redis they take, what they print, what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from router.cli.data_folder import Layout, locked
from router.cli.main import app
from router.cli.net import local_address
from router.cli.redis_server import find_redis, redis_argv, redis_url
from tests.support.servers import wait_until

Run = Callable[..., Result]


@pytest.fixture
def glowl(redis_url: str) -> Run:
    def run(*arguments: str, **env: str | None) -> Result:
        variables = {"REDIS_URL": redis_url, "LC_ALL": "C", "COLUMNS": "200", **env}
        return CliRunner().invoke(app, arguments, env=variables)

    return run


def test_there_and_back_and_in_chinese(glowl: Run, redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset("glowl:job:job_1", "state", "queued")
        client.hset("glowl:file:file_1", "name", "猫.png")
        file = str(tmp_path / "b.gz")

        made = glowl("backup", file)
        assert (made.exit_code, made.stdout) == (0, "")
        assert "holds 1 jobs, 1 files; it is not encrypted" in made.stderr
        assert "is whole: 2 keys, made at 20" in glowl("restore", file, "--check").stderr

        refused = glowl("restore", file)
        assert refused.exit_code == 1
        assert "already has 1 jobs, 1 files" in refused.stderr

        client.flushdb()
        done = glowl("restore", file, LC_ALL="zh_CN.UTF-8")
        assert done.exit_code == 0
        assert "1 任务, 1 文件" in done.stderr
        assert client.hget("glowl:file:file_1", "name") == "猫.png".encode()


def test_it_goes_through_pipes(glowl: Run, redis_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "router.cli"]
    env = {**os.environ, "REDIS_URL": redis_url}
    with redis.Redis.from_url(redis_url) as client:
        client.hset("glowl:job:job_1", "state", "queued")
        made = subprocess.run([*command, "backup", "-"], env=env, capture_output=True, check=True)
        assert b"- holds 1 jobs" in made.stderr
        client.flushdb()
        subprocess.run([*command, "restore", "-"], env=env, input=made.stdout, capture_output=True, check=True)
        assert client.hget("glowl:job:job_1", "state") == b"queued"


def test_what_cannot_be_done_is_one_line(glowl: Run, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("of somebody else")
    cases = {
        ("backup", str(tmp_path / "there")): "is already there",
        ("backup", str(tmp_path / "no" / "folder")): "No such file or directory",
        ("restore", str(tmp_path / "there")): "this is no backup of Glowl",
        ("restore", str(tmp_path / "nowhere")): "No such file or directory",
        ("restore", str(tmp_path)): "Is a directory",
    }
    for arguments, said in cases.items():
        done = glowl(*arguments)
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.output
        assert said in done.stderr
    assert (tmp_path / "there").read_text() == "of somebody else"
    away = glowl("backup", str(tmp_path / "b.gz"), REDIS_URL=f"unix://{tmp_path}/no.sock")
    assert away.exit_code == 1
    assert "REDIS_URL" in away.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_a_full_disk_leaves_no_half_a_file(
    glowl: Run, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with redis.Redis.from_url(redis_url) as client:
        client.hset("glowl:job:job_1", "state", "queued")
    monkeypatch.setattr("router.backup.archive.os.fsync", full)
    done = glowl("backup", str(tmp_path / "b.gz"))
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A data folder with a job in it, as a `glowl up` has left it."""
    layout = Layout(tmp_path / "data")
    layout.make("en")
    binary = find_redis({}).binary
    assert binary is not None
    address = local_address(layout.run_dir / "redis.sock")
    server = subprocess.Popen(redis_argv(binary, address, layout.redis_dir), stdout=subprocess.DEVNULL)
    with redis.Redis.from_url(redis_url(address)) as client:
        wait_until(lambda: _pings(client), "redis")
        client.hset("glowl:job:job_1", "state", "queued")
    server.terminate()
    server.wait()
    return layout


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_the_redis_of_a_folder_is_started_for_so_long(glowl: Run, layout: Layout, tmp_path: Path) -> None:
    file, env = str(tmp_path / "b.gz"), {"REDIS_URL": None}
    made = glowl("backup", file, "--data-dir", str(layout.data_dir), **env)
    assert "holds 1 jobs" in made.stderr

    other = str(tmp_path / "other")
    assert glowl("restore", file, "--data-dir", other, **env).exit_code == 0
    refused = glowl("restore", file, "--data-dir", other, **env)  # it is there now, also after the server's end
    assert "already has 1 jobs" in refused.stderr
    assert glowl("restore", file, "--replace", "--data-dir", other, **env).exit_code == 0


def test_a_folder_that_is_held_is_left_alone(glowl: Run, layout: Layout, tmp_path: Path) -> None:
    with locked(layout, "http://127.0.0.1:8000", "en"):
        refused = glowl("backup", str(tmp_path / "b.gz"), "--data-dir", str(layout.data_dir), REDIS_URL=None)
    assert refused.exit_code == 1
    assert "another `glowl up`" in refused.stderr
