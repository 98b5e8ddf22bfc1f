"""What the audit log does to requests when it cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from router.audit.log import AuditLog
from router.settings import Settings, SettingsError
from tests.router.middleware.conftest import MakeApp, client_of


def log_of(app: FastAPI) -> AuditLog:
    log = app.state.services.audit
    assert log is not None
    return log  # type: ignore[no-any-return]


@pytest.mark.parametrize(("audit", "status"), [("required", 503), ("on", 200)])
async def test_while_the_log_cannot_be_written_only_required_ones_refuse(
    make_app: MakeApp, tmp_path: Path, audit: str, status: int
) -> None:
    app = make_app(data_dir=tmp_path, audit=audit)
    log = log_of(app)
    async with client_of(app) as http:
        assert (await http.get("/v1/models")).status_code == 200
        log._writer.is_failing = True

        answer = await http.get("/v1/models", headers={"accept-language": "zh"})

        assert answer.status_code == status
        if status == 503:
            assert answer.json()["error"]["code"] == "audit_unavailable"
            assert "审计日志" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
        # A probe is not to restart the process for it.
        assert (await http.get("/healthz")).status_code == 200
    # And it is written down when that is possible again.
    log.start()
    log.close()
    (file,) = (tmp_path / "audit").glob("*.jsonl")
    found: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["status"] for line in found if line["kind"] == "request"] == [200, status]


def test_off_there_is_no_log_and_a_folder_that_cannot_be_written_stops_the_start(
    make_app: MakeApp, tmp_path: Path
) -> None:
    assert make_app(data_dir=tmp_path).state.services.audit is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(SettingsError, match=r"GLOWL_AUDIT: .*audit cannot be written"):
        make_app(data_dir=tmp_path, audit="on")


@pytest.mark.parametrize(
    ("value", "means"),
    [("", "off"), ("0", "off"), ("off", "off"), ("1", "on"), ("true", "on"), (" ON ", "on"), ("required", "required")],
)
def test_values_of_the_setting(monkeypatch: pytest.MonkeyPatch, value: str, means: str) -> None:
    monkeypatch.setenv("GLOWL_AUDIT", value)
    assert Settings().audit == means
