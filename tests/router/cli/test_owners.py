"""`glowl owners` and `glowl keys` on a redis: what they store, what they print and where, what they refuse."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from typer.testing import CliRunner, Result

from router.auth.key_text import digest_of, is_key
from router.cli.data_folder import Layout
from router.cli.durations import parse_duration, show_duration
from router.cli.main import app
from router.loop.collect import deleted_since
from router.loop.store import LoopStore
from tests.support.exchanges import exchange


class Terminal:
    """Runs commands as on a machine whose redis `REDIS_URL` names."""

    def __init__(self, url: str) -> None:
        self.env: dict[str, str | None] = {"REDIS_URL": url, "LC_ALL": "C", "GLOWL_API_KEYS": None}

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, env=self.env)

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    def refusal(self, *arguments: str, code: int = 1) -> str:
        done = self(*arguments)
        assert (done.exit_code, done.stdout) == (code, "")
        return " ".join(done.stderr.split())


@pytest.fixture
def glowl(redis_url: str) -> Terminal:
    return Terminal(redis_url)


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_an_owner_and_a_key_from_nothing(glowl: Terminal) -> None:
    made = glowl(
        "owners", "create", "alice", "--limits", "requests=60/min", "--retention", "1d", "--scopes", "ask,jobs"
    )
    assert re.fullmatch(r"own_[0-9a-f]{24}\n", made.stdout)
    assert "from now on, every request needs a key" in made.stderr
    assert "every request needs a key" not in glowl("owners", "create", "bob").stderr

    key = glowl("keys", "create", "alice", "--expires", "90d", "--note", "laptop")
    assert is_key(key.stdout.strip())
    assert key.stdout.strip() not in key.stderr

    [alice, bob] = glowl.json("owners", "list")
    assert (alice["name"], alice["limits"], alice["retention_s"], alice["live_keys"]) == (
        *("alice", "requests=60/min", 86400, 1),
    )
    assert (alice["scopes"], bob["scopes"]) == (["ask", "jobs"], ["ask", "files", "jobs"])
    [listed] = glowl.json("keys", "list")
    assert key.stdout.startswith(listed["id"])
    assert (listed["owner"], listed["note"], listed["status"]) == ("alice", "laptop", "live")
    assert listed["expires_at"] - listed["created_at"] == 90 * 86400
    assert key.stdout.strip() not in glowl("keys", "list").output


def test_tables_are_for_people(glowl: Terminal) -> None:
    assert "owners create" in glowl("owners", "list").stderr
    assert "keys create" in glowl("keys", "list").stderr
    glowl("owners", "create", "爱丽丝")
    glowl("keys", "create", "爱丽丝", "--scopes", "ask")
    assert "爱丽丝" in glowl("owners", "list").stdout
    for line in ("爱丽丝", "live", "never", "ask"):
        assert line in glowl("keys", "list", "爱丽丝").stdout
    glowl.env["LC_ALL"] = "zh_CN.UTF-8"
    assert "有效" in glowl("keys", "list").stdout
    assert "没有名为 'bob'" in glowl.refusal("keys", "list", "bob")
    assert "所有者" in glowl.refusal("keys", "create", "bob")


@pytest.mark.parametrize("lang", ["C", "zh_CN.UTF-8"])
def test_a_command_that_is_printed_can_be_pasted(glowl: Terminal, tmp_path: Path, lang: str) -> None:
    # Given a data folder that has to be named, and a name that a shell would take for two
    glowl.env["LC_ALL"] = lang
    folder = ("--data-dir", str(tmp_path / "my data"))

    def pasted(said: str, command: str) -> tuple[str, ...]:
        return tuple(shlex.split(said[said.index(command) :].splitlines()[0]))

    made = glowl("owners", "create", "my team", *folder)
    keys = pasted(made.stderr, "keys create")
    assert keys == ("keys", "create", "my team", *folder)
    assert pasted(made.stderr, "owners create") == ("owners", "create", "NAME", "--adopt", "local", *folder)
    # Then the key is made by it
    assert is_key(glowl(*keys).stdout.strip())
    purged = glowl("owners", "delete", "my team", "--purge", *folder)
    assert pasted(purged.stderr, "owners delete")[3:] == ("--purge", *folder)
    assert pasted(glowl("owners", "list", *folder).stderr, "owners create") == ("owners", "create", "NAME", *folder)


def test_show_says_what_is_stored(glowl: Terminal, client: redis.Redis) -> None:
    owner_id = glowl("owners", "create", "alice").stdout.strip()
    glowl("keys", "create", "alice")
    client.hset("glowl:job:resp_1", mapping={"owner": owner_id, "state": "completed"})
    shown = glowl("owners", "show", "alice").stdout
    assert owner_id in shown
    assert "1 jobs" in shown
    [found] = glowl.json("owners", "show", owner_id)
    assert found["stored"] == {"jobs": 1}
    assert [key["status"] for key in found["keys"]] == ["live"]


def test_terms_are_changed_and_lifted(glowl: Terminal) -> None:
    glowl("owners", "create", "alice", "--limits", "tokens=1k/min", "--retention", "2d")
    [found] = glowl.json(
        "owners", "set", "alice", "--name", "alicia", "--scopes", "ask,admin", "--limits", "concurrent=3"
    )
    assert (found["name"], found["scopes"], found["limits"]) == ("alicia", ["admin", "ask"], "concurrent=3")
    [found] = glowl.json("owners", "set", "alicia", "--limits", "none", "--retention", "none")
    assert (found["limits"], found["retention_s"]) == ("", None)
    assert "nothing to change" in glowl.refusal("owners", "set", "alicia", code=2)
    assert "no owner 'alice'" in glowl.refusal("owners", "set", "alice", "--name", "x")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("owners", "create", "bob", "--scopes", "ask,fly"), "fly is no scope"),
        (("owners", "create", "bob", "--limits", "wings=2"), "wings"),
        (("owners", "create", "bob", "--retention", "5"), "no length of time"),
        (("owners", "create", "bob", "--retention", "5m"), "at least 1h"),
        (("keys", "create", "alice", "--expires", "0"), "no length of time"),
        (("keys", "rotate", "glowl_x", "--overlap", "a day"), "no length of time"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_redis_is_asked(
    glowl: Terminal, arguments: tuple[str, ...], says: str
) -> None:
    glowl.env["REDIS_URL"] = "redis://127.0.0.1:1/0"
    done = glowl(*arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())


def test_a_key_is_rotated_and_revoked(glowl: Terminal) -> None:
    glowl("owners", "create", "alice")
    first = glowl("keys", "create", "alice").stdout.strip()
    done = glowl("keys", "rotate", first[:14], "--overlap", "1h")
    second = done.stdout.strip()
    assert is_key(second)
    assert first[:14] in done.stderr
    old, new = glowl.json("keys", "list")
    assert old["expires_at"] - new["created_at"] == 3600

    assert second[:14] in glowl("keys", "revoke", second).stderr  # who finds a key somewhere has all of it
    assert [key["status"] for key in glowl.json("keys", "list")] == ["live", "revoked"]
    assert "no longer good" in glowl.refusal("keys", "rotate", second)
    [third] = glowl.json("keys", "rotate", first, "--overlap", "0")
    assert is_key(third["key"])
    assert [key["status"] for key in glowl.json("keys", "list")] == ["revoked", "revoked", "live"]


def test_a_configured_key_is_listed_adopted_and_rotated(glowl: Terminal) -> None:
    glowl.env["GLOWL_API_KEYS"] = "old-secret,other"
    owner_id = digest_of("old-secret").hex()[:16]
    assert [owner["name"] for owner in glowl.json("owners", "list")] == [None, None]
    assert owner_id in glowl("owners", "list").stdout

    made = glowl("owners", "create", "alice", "--adopt", owner_id)
    assert made.stdout.strip() == owner_id
    assert "every request needs a key" not in made.stderr
    # What its key may no longer do is said before a client finds out.
    assert "may do ask,files,jobs from now on, and no longer admin" in " ".join(made.stderr.split())
    assert "owners set alice --scopes admin,ask,files,jobs" in " ".join(made.stderr.split())
    other_id = digest_of("other").hex()[:16]
    with_all = glowl("owners", "create", "carol", "--adopt", other_id, "--scopes", "ask,jobs,files,admin")
    assert "no longer" not in with_all.stderr
    [key] = glowl.json("keys", "list", "alice")
    assert key["id"] == f"env_{owner_id[:8]}"
    assert is_key(glowl("keys", "rotate", key["id"]).stdout.strip())
    assert "is an owner already" in glowl.refusal("owners", "create", "bob", "--adopt", owner_id)


def test_an_owner_with_things_is_kept_unless_all_of_it_shall_go(glowl: Terminal, client: redis.Redis) -> None:
    owner_id = glowl("owners", "create", "alice").stdout.strip()
    glowl("keys", "create", "alice")
    client.hset("glowl:job:resp_1", mapping={"owner": owner_id, "state": "completed"})
    client.hset("glowl:job:resp_2", mapping={"owner": "somebody", "state": "completed"})
    assert "1 jobs" in glowl.refusal("owners", "delete", "alice")
    assert glowl.json("keys", "list")

    [done] = glowl.json("owners", "delete", "alice", "--purge")
    assert done["purged"] == {"jobs": 1}
    assert not client.exists("glowl:job:resp_1")
    assert client.exists("glowl:job:resp_2")
    assert glowl.json("owners", "list") == glowl.json("keys", "list") == []

    # What was written meanwhile goes by the id.
    client.hset("glowl:job:resp_3", mapping={"owner": owner_id, "state": "completed"})
    assert glowl.json("owners", "delete", owner_id, "--purge")[0]["purged"] == {"jobs": 1}
    assert "no owner" in glowl.refusal("owners", "delete", owner_id)


def test_who_purges_an_owner_is_told_what_the_audit_log_keeps(glowl: Terminal, tmp_path: Path) -> None:
    glowl.env |= {"GLOWL_DATA_DIR": str(tmp_path)}
    glowl("owners", "create", "alice")
    assert "audit log" not in " ".join(glowl("owners", "delete", "alice", "--purge").stderr.split())

    # Given a log, be it of an api with other settings
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "2026-11-29.api-0123abcd.jsonl").touch()
    owner_id = glowl("owners", "create", "alice").stdout.strip()

    said = " ".join(glowl("owners", "delete", "alice", "--purge").stderr.split())

    assert f"what it says of {owner_id} is deleted with its day, after 90 days (GLOWL_AUDIT_DAYS)" in said


def test_an_owner_without_things_just_goes(glowl: Terminal) -> None:
    glowl("owners", "create", "alice")
    done = glowl("owners", "delete", "alice")
    assert done.exit_code == 0
    assert "need no key" in done.stderr


def test_the_redis_of_a_running_glowl_up_is_found(glowl: Terminal, redis_url: str, tmp_path: Path) -> None:
    glowl.env["REDIS_URL"] = None
    assert str(tmp_path) in glowl.refusal("owners", "list", "--data-dir", str(tmp_path))
    layout = Layout(tmp_path)
    layout.make("en")
    layout.redis_url_path.write_text(redis_url + "\n")
    assert glowl("owners", "create", "alice", "--data-dir", str(tmp_path)).exit_code == 0
    # What an `up` that was killed has left is no redis.
    layout.redis_url_path.write_text("redis://127.0.0.1:1/0\n")
    assert "no `glowl up` runs" in glowl.refusal("owners", "list", "--data-dir", str(tmp_path))


def test_a_redis_that_does_not_answer_is_named(glowl: Terminal) -> None:
    glowl.env["REDIS_URL"] = "redis://:secret@127.0.0.1:1/0"
    said = glowl.refusal("keys", "list")
    assert "127.0.0.1:1" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("24h", 86400), ("90D", 90 * 86400), ("2w", 14 * 86400), ("0", 0)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text, is_zero_good=True) == seconds
    assert parse_duration(show_duration(seconds), is_zero_good=True) == seconds


def test_what_is_kept_for_data_sets_is_set_shown_and_goes_with_the_owner(glowl: Terminal, tmp_path: Path) -> None:
    # Given an owner who lets us keep texts
    glowl.env["GLOWL_DATA_DIR"] = str(tmp_path)
    owner_id = glowl("owners", "create", "alice", "--capture", "text").stdout.strip()
    glowl("owners", "set", "alice", "--redact", "email,phone")
    [found] = glowl.json("owners", "show", "alice")
    assert (found["captures"], found["redacts"]) == ("text", ["email", "phone"])
    assert "Redacted: email,phone" in glowl("owners", "show", "alice").stdout
    assert "off, text, pictures" in glowl.refusal("owners", "set", "alice", "--capture", "everything", code=2)
    # And some of it
    with LoopStore(tmp_path / "loop") as store:
        store.put(exchange(1, owner=owner_id), [], 1e12)
        store.put(exchange(2, owner="own_other"), [], 1e12)
    # Then the owner cannot go without it
    assert "1 answers for data sets" in glowl.refusal("owners", "delete", "alice")
    assert glowl.json("owners", "delete", "alice", "--purge")[0]["purged"] == {"answers for data sets": 1}
    with LoopStore(tmp_path / "loop") as store:
        assert [each.id for each in store.select()] == ["resp_2"]


def test_a_purge_reaches_other_machines(glowl: Terminal, redis_url: str) -> None:
    owner_id = glowl.json("owners", "create", "alice")[0]["id"]
    glowl("owners", "delete", "alice", "--purge")

    async def read() -> Mapping[str, float]:
        async with AsyncRedis.from_url(redis_url) as client:
            return await deleted_since(client, 0.0)

    assert owner_id in asyncio.run(read())
