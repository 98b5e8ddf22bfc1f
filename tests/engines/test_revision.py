"""What an engine's revision depends on: every byte of small files, samples of large ones, and how they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import revision
from engines.revision import adapter_revisions, revision_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(100_000))
    return folder


def test_the_same_files_elsewhere_are_the_same_revision(folder: Path, tmp_path: Path) -> None:
    before = revision_of([("", str(folder))], "bf16")

    assert revision_of([("", str(folder.rename(tmp_path / "moved")))], "bf16") == before
    assert len(before) == 16


def test_a_changed_file_a_new_adapter_and_another_dtype_are_other_revisions(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    found = [revision_of([("", str(folder))], "bf16"), revision_of([("", str(folder))], "int8")]
    found.append(revision_of([("", str(folder)), ("tags", str(adapter))], "bf16"))
    (folder / "config.json").write_text('{"a": 1}')
    found.append(revision_of([("", str(folder))], "bf16"))

    assert len(set(found)) == 4


def test_a_readme_changes_no_answer(folder: Path) -> None:
    before = revision_of([("", str(folder))], "")
    (folder / "README.md").write_text("about it")

    assert revision_of([("", str(folder))], "") == before


def test_weights_that_were_trained_on_are_another_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "_WHOLE_BYTES", 1024)  # so that this file counts as large
    monkeypatch.setattr(revision, "_SAMPLE_BYTES", 16)
    weights = folder / "model.safetensors"
    before = revision_of([("", str(folder))], "")
    weights.write_bytes(bytes([1]) * 100_000)

    assert revision_of([("", str(folder))], "") != before
    weights.write_bytes(bytes(100_001))
    assert revision_of([("", str(folder))], "") != before


def test_a_name_that_leads_to_no_files_counts_by_itself() -> None:
    assert revision_of([("", "/no/such/folder")], "") != revision_of([("", "/no/other/folder")], "")


def test_an_adapter_is_known_by_its_own_files_and_the_base(folder: Path, tmp_path: Path) -> None:
    adapters = []
    for name in ("tags", "labels"):
        path = tmp_path / name
        path.mkdir()
        (path / "adapter_model.safetensors").write_bytes(name.encode())
        adapters.append((name, str(path)))
    both = adapter_revisions(str(folder), adapters, "bf16")
    assert len({*both, revision_of([("", str(folder))], "bf16")}) == 3
    # Another beside it, or another name, changes nothing; training it further does
    assert adapter_revisions(str(folder), [("renamed", adapters[1][1])], "bf16") == both[1:]
    (tmp_path / "tags" / "adapter_model.safetensors").write_bytes(b"trained on")
    again = adapter_revisions(str(folder), adapters, "bf16")
    assert (again[0] != both[0], again[1]) == (True, both[1])
