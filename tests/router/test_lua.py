"""The scripts: every file is one that redis takes, is known by a name, and says where it failed."""

from __future__ import annotations

import logging
import re
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
from redis.asyncio import Redis

from router import lua
from router.errors import QueueUnavailableError, StorageFullError
from router.lua import JobScript, Script, Scripts, load
from router.lua.constants import CONSTANTS
from router.redis import PREFIX

SCRIPTS: list[Script] = [script for kind in get_args(Script) for script in kind]
FOLDER = Path(str(files(lua)))


def test_every_file_has_a_name_and_every_name_a_file() -> None:
    there = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.lua")}
    assert {name for name in there if not name.startswith("include/")} == {str(script) for script in SCRIPTS}

    texts = [path.read_text() for path in FOLDER.glob("*/*.lua")]
    included = {name for text in texts for name in re.findall(r"^--@include (\w+)$", text, re.MULTILINE)}
    assert {f"include/{name}" for name in included} == {name for name in there if name.startswith("include/")}


@pytest.mark.parametrize("script", SCRIPTS)
async def test_redis_takes_every_script(redis: Redis, script: Script) -> None:
    await redis.script_load(load(script).text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_what_it_does_and_names_its_arguments_once(script: Script) -> None:
    first = (FOLDER / f"{script}.lua").read_text().splitlines()[0]
    assert re.fullmatch(r"-- [A-Z].*\.", first)
    source = load(script)
    assert source.arguments
    assert len(re.findall(r"= unpack\(ARGV\)", source.text)) == 1
    assert len(source.places) == len(source.text.splitlines())


def test_no_constant_is_named_in_vain() -> None:
    words = {word for path in FOLDER.glob("*/*.lua") for word in re.findall(r"\b[A-Z_]+\b", path.read_text())}
    assert CONSTANTS.keys() - words == set()


async def test_a_failure_names_the_line_of_the_file_it_stands_in(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (FOLDER / "include" / "queues.lua").read_text().splitlines()
    number = 1 + next(number for number, line in enumerate(lines) if "ZREM', LEASES" in line)
    await redis.set(f"{PREFIX}leases", "of another type")
    await redis.hset(
        f"{PREFIX}job:one",
        mapping={"draft.state": "queued", "draft.queue": "glm", "class": 1, "owner": "me", "accepted_at": 1},
    )

    with caplog.at_level(logging.ERROR), pytest.raises(QueueUnavailableError):
        await Scripts(redis).run(JobScript.CLAIM, id="one", unit="draft", lease_s=5)

    assert f"jobs/claim failed at router/lua/include/queues.lua:{number}:" in caplog.text


async def test_a_redis_without_room_is_no_failure_of_a_script(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    await redis.hset(f"{PREFIX}job:one", "state", "queued")
    await redis.config_set("maxmemory", 1)
    try:
        with caplog.at_level(logging.ERROR), pytest.raises(StorageFullError):
            await Scripts(redis).run(JobScript.TELL, id="one", left_by="")
    finally:
        await redis.config_set("maxmemory", 0)

    assert not caplog.records


async def test_arguments_that_a_script_does_not_name_are_refused(redis: Redis) -> None:
    with pytest.raises(TypeError, match="takes id, left_by; not id"):
        await Scripts(redis).run(JobScript.TELL, id="one")
    with pytest.raises(TypeError, match="not id, left_by, why"):
        await Scripts(redis).run(JobScript.TELL, id="one", left_by="", why="")
