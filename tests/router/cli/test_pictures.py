"""Pictures named on the command line: as much of a file is read as can be sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.cli import pictures
from router.cli.pictures import PictureError, read_picture
from tests.support.pictures import png

PNG = png("red").data


def test_a_picture_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert read_picture(str(tmp_path / "a.png"), "en") == (PNG, "image/png")


def test_of_a_file_that_is_no_picture_only_its_beginning_is_read() -> None:
    """This one has no end."""
    with pytest.raises(PictureError, match="is not a picture"):
        read_picture("/dev/zero", "en")


def test_a_picture_that_no_request_could_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", len(PNG))
    assert read_picture(str(tmp_path / "a.png"), "en")
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", len(PNG) - 1)
    with pytest.raises(PictureError, match="the most that fits a request"):
        read_picture(str(tmp_path / "a.png"), "en")
