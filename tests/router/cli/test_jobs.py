"""`glowl jobs` without a service: what it makes of the answers it gets."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli.api import Api
from router.cli.common import fail
from router.cli.main import app

EMPTY = {"data": [], "has_more": False, "last_id": None}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_lines_of_a_batch_that_is_not_there_are_an_error(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    def call(_api: Api, _method: str, path: str, **_query: Any) -> Any:
        if path == "batches/batch_9%2F":
            fail("the service answered 404: no batch")
        if path == "batches/batch_1":
            counts = {"total": 3, "completed": 2, "failed": 1}
            files = {"output_file_id": "file-out", "error_file_id": None}
            return {"id": "batch_1", "status": "completed", "request_counts": counts, **files}
        return EMPTY

    monkeypatch.setattr(Api, "call", call)
    missing = CliRunner().invoke(app, ["jobs", "list", "--batch", "batch_9/", *options])
    assert missing.exit_code == 1
    assert "404" in missing.stderr
    # And one that has no lines left is no error: it says where they are
    ended = CliRunner().invoke(app, ["jobs", "list", "--batch", "batch_1", *options])
    assert (ended.exit_code, ended.stdout) == (0, "")
    for word in ("completed (2 of 3 answered, 1 failed)", "file-out", "batch --resume batch_1"):
        assert word in ended.stderr
    assert CliRunner().invoke(app, ["jobs", "list", *options]).exit_code == 0
