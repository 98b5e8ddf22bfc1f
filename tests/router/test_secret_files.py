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
    for name in ("GLOWL_API_KEYS", "GLOWL_JWT_SECRET", "GLOWL_GLM_API_KEY", "GLOWL_WEBHOOK_SECRET", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def test_every_secret_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    webhook = "whsec_" + "YWJj" * 10
    values = {"API_KEYS": "one,two\n", "JWT_SECRET": f"{SECRET}\n", "GLM_API_KEY": "glm", "WEBHOOK_SECRET": webhook}
    variables = {f"GLOWL_{name}": value for name, value in values.items()}
    for name, value in {**variables, "REDIS_URL": "redis://:pass@elsewhere/3\n"}.items():
        (tmp_path / name).write_text(value)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))

    settings = Settings()

    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert [key.get_secret_value() for key in settings.jwt_secret] == [SECRET]
    assert settings.glm_api_key is not None
    assert settings.glm_api_key.get_secret_value() == "glm"
    assert [key.get_secret_value() for key in settings.webhook_secret] == [webhook]
    assert settings.redis_url == "redis://:pass@elsewhere/3"
    assert SECRET not in repr(settings)
    # What is given in code counts first, and an empty name is none: compose passes those.
    assert Settings(jwt_secret=()).jwt_secret == ()
    monkeypatch.setenv("GLOWL_API_KEYS_FILE", "")
    assert Settings().api_keys == ()


@pytest.mark.parametrize("name", ["GLOWL_API_KEYS", "REDIS_URL"])
def test_a_variable_set_to_nothing_hides_no_file_and_an_empty_file_no_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    def read() -> str:
        settings = Settings()
        return settings.redis_url if name == "REDIS_URL" else settings.api_keys[0].get_secret_value()

    # As compose does with a line `NAME=` in .env: keys that are not asked for would be a door left open.
    (tmp_path / "secret").write_text("redis://in-a-file/0\n")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv(name, "")
    assert read() == "redis://in-a-file/0"

    (tmp_path / "secret").write_text("\n")
    monkeypatch.setenv(name, "redis://in-a-variable/0")
    assert read() == "redis://in-a-variable/0"


@pytest.mark.parametrize(
    ("content", "says"), [(None, "REDIS_URL_FILE: "), ("nowhere", "REDIS_URL: an address such as")], ids=["no", "bad"]
)
def test_a_wrong_file_of_the_address_of_redis_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "url").write_text(content)
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    result = CliRunner().invoke(app, ["tokens", "issue", "--owner", "a"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"glowl: {says}")


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
