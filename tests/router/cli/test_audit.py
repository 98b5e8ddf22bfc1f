"""`glowl audit`: a changed log is an exit status of 1, and lines are found by what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from router.audit.chain import files_in
from router.audit.log import AuditLog
from router.cli.main import app

REQUEST = {
    **{"kind": "request", "took_ms": 3.1, "key_id": "env_1", "address": "127.0.0.1", "method": "POST"},
    **{"path": "/v1/responses", "status": 200, "outcome": "answered", "prompt_tokens": 7, "completion_tokens": 3},
}
NOON = 1_795_953_600.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two processes at the same time, each with a few requests."""
    monkeypatch.setenv("GLOWL_DATA_DIR", str(tmp_path))
    now = NOON
    logs = [AuditLog(tmp_path / "audit", keep_days=7, clock=lambda: now) for _ in range(2)]
    for log in logs:
        log.start()
    for number in range(6):
        now += 1.0
        owner, status = ("own_a", 200) if number % 3 else ("own_b", 403)
        logs[number % 2].add(
            {**REQUEST, "owner": owner, "status": status, "request_id": f"r{number}", "response_id": f"resp_{number}"}
        )
    for log in logs:
        log.close()
    return tmp_path / "audit"


def audit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def numbers(result: Result) -> list[str]:
    return [record["request_id"] for record in map(json.loads, result.stdout.splitlines()) if "request_id" in record]


def test_a_right_log_is_said_to_be_one_with_the_hash_to_keep(folder: Path) -> None:
    result = audit("verify")
    assert result.exit_code == 0
    assert "the log is as it was written" in result.stdout
    (first, _) = json.loads(audit("verify", "--json").stdout)["chains"]
    assert first["hash"] in result.stdout
    assert audit("verify", "--has", first["hash"]).exit_code == 0


def test_a_changed_log_is_named_by_file_and_line(folder: Path) -> None:
    name = files_in(folder)[0].name
    (folder / name).write_text((folder / name).read_text().replace("3.1", "3.2", 1))

    result = audit("verify", "--lang", "zh")

    assert result.exit_code == 1
    assert f"{name}:2: 此行被改动" in result.stderr
    assert "日志已被改动" in result.stdout
    assert json.loads(audit("verify", "--json").stdout)["problems"][0]["line"] == 2


def test_a_hash_that_is_gone_is_a_changed_log(folder: Path) -> None:
    result = audit("verify", "--has", "0" * 64)
    assert result.exit_code == 1
    assert "0" * 64 in result.stderr


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], ["r0", "r1", "r2", "r3", "r4", "r5"]),
        (["--owner", "own_b"], ["r0", "r3"]),
        (["--status", "200"], ["r1", "r2", "r4", "r5"]),
        (["--request", "resp_4"], ["r4"]),
        (["--request", "r5"], ["r5"]),
        (["--request", "chatcmpl-4"], ["r4"]),
        (["--request", "msg_4"], ["r4"]),
        (["--request", "msg_r5"], []),
        (["--day", "2026-11-28"], []),
        (["--key", "env_1", "--owner", "own_b"], ["r0", "r3"]),
        (["--key", "env_2"], []),
        (["--day", "2026-11-29", "--owner", "own_b"], ["r0", "r3"]),
    ],
    ids=str,
)
def test_lines_are_found_by_what_they_say_in_the_order_of_time(
    folder: Path, options: list[str], found: list[str]
) -> None:
    assert numbers(audit("show", "--json", *options)) == found


def test_an_owners_name_is_not_taken_for_one_that_asked_nothing(folder: Path) -> None:
    result = audit("show", "--owner", "alice")
    assert result.stdout == ""
    assert "`glowl owners show NAME`" in result.stderr
    assert audit("show", "--owner", "own_a").stderr == ""


def test_the_last_lines_and_those_that_come(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers(audit("tail", "-n", "6", "--json")) == ["r2", "r3", "r4", "r5"]  # and the ends of both processes
    shown = audit("tail", "-n", "0").stdout
    assert shown == ""
    assert "200  POST /v1/responses  own_a  env_1  127.0.0.1  3.1 ms" in audit("show", "--request", "r5").stdout

    def sleep(_seconds: float) -> None:
        if len(files_in(folder)) > 2:
            raise KeyboardInterrupt
        log = AuditLog(folder, keep_days=7, clock=lambda: NOON + 60)
        log.start()
        log.add({**REQUEST, "owner": "own_a", "request_id": "r9"})
        log.close()

    monkeypatch.setattr("router.cli.audit.time.sleep", sleep)
    assert numbers(audit("tail", "-n", "0", "--follow", "--json")) == ["r9"]


@pytest.mark.parametrize("command", ["verify", "show", "tail"])
def test_no_log_is_not_a_right_one(tmp_path: Path, command: str) -> None:
    refused = audit(command, "--folder", tmp_path / "none")
    assert refused.exit_code == 1
    assert "GLOWL_AUDIT=on" in refused.stderr
