"""`glowl tokens`: what is issued is accepted, and what is refused is explained."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from router.auth.tokens import owner_id
from router.cli.durations import parse_duration
from router.cli.main import app
from tests.support.tokens import AUDIENCE, ISSUER, SECRET


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOWL_JWT_SECRET", f"{SECRET},an-older-secret-of-thirty-two-bytes!")
    monkeypatch.setenv("GLOWL_JWT_ISSUER", ISSUER)
    monkeypatch.setenv("GLOWL_JWT_AUDIENCE", AUDIENCE)


def tokens(*arguments: str, sent: str = "") -> Result:
    return CliRunner().invoke(app, ["tokens", *arguments], input=sent)


@pytest.mark.parametrize(("scopes", "shown"), [("", "ask,files,jobs"), ("jobs, ask", "ask,jobs"), ("admin", "admin")])
def test_what_is_issued_is_accepted(scopes: str, shown: str) -> None:
    token = tokens("issue", "--owner", "alice", "--scopes", scopes, "--for", "15m").stdout

    checked = tokens("check", sent=token)

    assert checked.exit_code == 0
    assert f"owner {owner_id(ISSUER, 'sub', 'alice')}, scopes {shown}, until 20" in checked.stdout


def test_what_is_refused_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    token = tokens("issue", "--owner", "alice").stdout
    monkeypatch.setenv("GLOWL_JWT_AUDIENCE", "another")

    refused = tokens("check", "--lang", "zh", sent=token)

    assert refused.exit_code == 1
    assert "invalid_token: 令牌用于其他服务" in refused.stderr


@pytest.mark.parametrize("sent", [b"\xff\xfe\x00", "令牌.a.b".encode(), b""])
def test_what_is_no_text_of_a_token_is_refused_like_any_other(sent: bytes) -> None:
    refused = CliRunner().invoke(app, ["tokens", "check"], input=sent)
    assert refused.exit_code == 1
    assert "invalid_token: " in refused.stderr


@pytest.mark.parametrize(
    "arguments", [["--owner", " "], ["--owner", "a", "--scopes", "root"], ["--owner", "a", "--for", "soon"]], ids=str
)
def test_what_cannot_be_issued_is_wrong_usage(arguments: list[str]) -> None:
    assert tokens("issue", *arguments).exit_code == 2


def test_without_a_secret_both_say_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SECRET", "ISSUER", "AUDIENCE"):
        monkeypatch.delenv(f"GLOWL_JWT_{name}")
    for command in (["issue", "--owner", "a"], ["check"]):
        refused = tokens(*command)
        assert refused.exit_code == 2
        assert "GLOWL_JWT_SECRET" in refused.stderr
    # With keys of an issuer alone, nothing can be signed, and a file that is missing is named.
    monkeypatch.setenv("GLOWL_JWT_JWKS", str(tmp_path / "keys.json"))
    monkeypatch.setenv("GLOWL_JWT_ISSUER", ISSUER)
    monkeypatch.setenv("GLOWL_JWT_AUDIENCE", AUDIENCE)
    assert tokens("issue", "--owner", "a").exit_code == 2
    assert "keys.json" in tokens("check", sent="a.b.c").stderr


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86400), (" 7D ", 604800)])
def test_a_length_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "1", "-1h", "1.5h", "1y", "9999999s"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_duration(text)
