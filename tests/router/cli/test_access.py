"""No service begins where others could ask it and nothing keeps them out."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from router.cli.access import has_owners, needs_owners
from router.cli.doctor import check_access
from router.cli.main import app
from router.settings import Settings

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("settings", "needs_them"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "192.168.1.2"}, True),
        ({"host": "0.0.0.0", "published_on": "127.0.0.1"}, False),
        ({"host": "127.0.0.1", "published_on": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"host": "0.0.0.0", "insecure": ""}, True),
        ({"host": "0.0.0.0", "api_keys": (SecretStr("alice"),)}, False),
        ({"host": "0.0.0.0", "jwt_secret": "x" * 40}, False),
    ],
    ids=str,
)
def test_who_is_reached_by_others_needs_owners(settings: dict[str, Any], needs_them: bool) -> None:
    assert needs_owners(Settings(**settings)) is needs_them


def test_a_redis_has_owners_or_not_or_does_not_say(redis_url: str) -> None:
    assert asyncio.run(has_owners(redis_url)) is False
    add_owner(redis_url)
    assert asyncio.run(has_owners(redis_url)) is True
    assert asyncio.run(has_owners(NOWHERE)) is None


def add_owner(url: str) -> None:
    CliRunner().invoke(app, ["owners", "create", "alice"], env={"REDIS_URL": url})


@pytest.mark.parametrize("lang", ["C", "zh_CN.UTF-8"])
def test_the_api_is_not_started_where_everybody_could_ask(redis_url: str, lang: str) -> None:
    done = CliRunner().invoke(app, ["api", "--host", "0.0.0.0"], env={"REDIS_URL": redis_url, "LC_ALL": lang})
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    for word in ("0.0.0.0", "glowl owners create", "GLOWL_API_KEYS", "--insecure"):
        assert word in line


@pytest.mark.parametrize(
    ("settings", "has_one", "status", "says"),
    [
        ({}, False, "ok", "no key is needed"),
        ({}, True, "ok", "a key is needed"),
        ({}, None, "ok", "once there is an owner"),
        ({"api_keys": (SecretStr("alice"),)}, None, "ok", "a key is needed"),
        ({"host": "0.0.0.0"}, False, "fail", "will not start"),
        ({"host": "0.0.0.0"}, None, "warn", "only if it has owners"),
        ({"host": "0.0.0.0"}, True, "ok", "with a key"),
        ({"host": "0.0.0.0", "insecure": True}, False, "warn", "without a key"),
    ],
    ids=str,
)
def test_the_doctor_says_who_can_ask(
    redis_url: str, tmp_path: Path, settings: dict[str, Any], has_one: bool | None, status: str, says: str
) -> None:
    if has_one:
        add_owner(redis_url)
    where = {} if has_one is None else {"REDIS_URL": redis_url}
    check = check_access(Settings(**settings, **where), tmp_path, "en")
    assert (check.name, check.status) == ("access", status)
    assert says in check.text
    assert check_access(Settings(**settings, **where), tmp_path, "zh").text != check.text


@pytest.mark.e2e
def test_glowl_up_ends_before_a_model_is_loaded(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "router.cli", "up", "--models", "echo", "--no-ui", "--port", "0"]
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    done = subprocess.run(
        [*argv, "--data-dir", str(tmp_path), "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**env, "LC_ALL": "C"},
    )
    assert done.returncode == 1
    assert "others could reach 0.0.0.0" in " ".join(done.stdout.split())
    assert not (tmp_path / "logs" / "glm.log").exists()
    assert not (tmp_path / "run" / "redis.url").exists()
