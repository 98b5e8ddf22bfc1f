"""Secrets from files, as Docker and Kubernetes hand them out."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from router.cli.main import app
from router.settings import Settings

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def _none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOWL_API_KEYS", "GLOWL_JWT_SECRET", "GLOWL_GLM_API_KEY", "GLOWL_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)


def test_every_secret_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    webhook = "whsec_" + "YWJj" * 10
    values = {"API_KEYS": "one,two\n", "JWT_SECRET": f"{SECRET}\n", "GLM_API_KEY": "glm", "WEBHOOK_SECRET": webhook}
    for name, value in values.items():
        (tmp_path / name).write_text(value)
        monkeypatch.setenv(f"GLOWL_{name}_FILE", str(tmp_path / name))

    settings = Settings()

    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert [key.get_secret_value() for key in settings.jwt_secret] == [SECRET]
    assert settings.glm_api_key is not None
    assert settings.glm_api_key.get_secret_value() == "glm"
    assert [key.get_secret_value() for key in settings.webhook_secret] == [webhook]
    assert SECRET not in repr(settings)
    # What is given in code counts first, and an empty name is none: compose passes those.
    assert Settings(jwt_secret=()).jwt_secret == ()
    monkeypatch.setenv("GLOWL_API_KEYS_FILE", "")
    assert Settings().api_keys == ()


def test_a_file_is_held_to_the_same_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short")
    monkeypatch.setenv("GLOWL_JWT_SECRET_FILE", str(tmp_path / "secret"))
    with pytest.raises(ValidationError, match="32 bytes"):
        Settings()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_a_file_that_cannot_be_read_stops_the_start_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv("GLOWL_JWT_SECRET_FILE", str(tmp_path / "secret"))

    result = CliRunner().invoke(app, ["tokens", "issue", "--owner", "a"])

    assert result.exit_code == 2
    assert result.stderr.startswith("glowl: GLOWL_JWT_SECRET_FILE: ")
    assert "cannot be read" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_secret_that_is_there_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("GLOWL_JWT_SECRET_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("GLOWL_JWT_SECRET", SECRET)
    with pytest.raises(ValidationError, match="GLOWL_JWT_SECRET is set too"):
        Settings()
