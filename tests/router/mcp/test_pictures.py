"""Which files an agent may have read, and what it is told of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.mcp import pictures
from router.mcp.pictures import SourceError, Sources

PNG = b"\x89PNG\r\n\x1a\nrest"
AS_URL = "data:image/png;base64,iVBORw0KGgpyZXN0"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "a b.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return folder


def refusal(sources: Sources, source: str) -> str:
    with pytest.raises(SourceError) as caught:
        sources.to_image_urls([source])
    assert caught.value.text.zh
    return caught.value.text.en


def test_files_below_an_allowed_folder_are_sent_however_they_are_named(inside: Path) -> None:
    sources = Sources.below([inside])
    for source in (str(inside / "a b.png"), "a b.png", " ./a b.png ", (inside / "a b.png").as_uri()):
        assert sources.to_image_urls([source]) == [AS_URL]
    # A relative path is looked for in each of several folders.
    assert Sources.below([inside.parent, inside]).to_image_urls(["a b.png"]) == [AS_URL]


def test_addresses_stay_what_they_are(inside: Path) -> None:
    for source in ("https://example.com/a.png", "HTTP://example.com/a.png", AS_URL):
        assert Sources.below([inside]).to_image_urls([source]) == [source]


def test_nothing_outside_is_read_or_even_said_to_be_there(inside: Path) -> None:
    (inside / "link.png").symlink_to(inside.parent / "secret.png")
    (inside / "folder").symlink_to(inside.parent)
    sources = Sources.below([inside])
    outside = (
        *(str(inside.parent / "secret.png"), "../secret.png", "link.png", "folder/secret.png", "/etc/passwd"),
        *(
            (inside.parent / "secret.png").as_uri(),
            "file:///etc/passwd",
            f"{inside.as_uri()}/%2e%2e/secret.png",
            "../none.png",
        ),
    )
    for source in outside:
        said = refusal(sources, source)
        assert "not below an allowed folder" in said, source
        assert str(inside) in said


def test_a_folder_whose_name_only_begins_alike_is_outside(inside: Path) -> None:
    twin = inside.with_name("inside-too")
    twin.mkdir()
    (twin / "a.png").write_bytes(PNG)
    assert "not below" in refusal(Sources.below([inside]), str(twin / "a.png"))


def test_an_allowed_folder_may_itself_be_a_link(inside: Path) -> None:
    link = inside.parent / "linked"
    link.symlink_to(inside)
    assert Sources.below([link]).to_image_urls([str(link / "a b.png")]) == [AS_URL]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.png", b"#!/bin/sh", "no picture that Glowl knows"),
        ("a.pdf", b"%PDF-1.7", "pdftoppm"),
        ("empty.png", b"", "no picture that Glowl knows"),
    ],
)
def test_only_pictures_are_sent(inside: Path, name: str, data: bytes, said: str) -> None:
    (inside / name).write_bytes(data)
    assert said in refusal(Sources.below([inside]), name)


def test_what_is_no_file_is_said_and_holds_nobody_up(inside: Path) -> None:
    os.mkfifo(inside / "pipe.png")  # reading one that nobody writes to would wait for ever
    sources = Sources.below([inside])
    assert "is not a file" in refusal(sources, "pipe.png")
    assert "is not a file" in refusal(sources, ".")
    assert "is not a file" in refusal(sources, "a\0b.png")
    assert "no file none.png" in refusal(sources, "none.png")


def test_a_file_that_no_request_could_carry_is_not_read(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", len(PNG) - 1)
    assert "Send a smaller copy" in refusal(Sources.below([inside]), "a b.png")


def test_files_that_no_request_could_carry_together_are_not_all_read(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pictures of which two fit one request
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 2 * len(PNG))
    sources = Sources.below([inside])
    assert sources.to_image_urls(["a b.png", AS_URL, "a b.png"]) == [AS_URL] * 3

    # When a call names more, the last of which is none
    with pytest.raises(SourceError) as caught:
        sources.to_image_urls(["a b.png"] * 3 + ["none.png"])

    # Then the third ends it
    assert "Send fewer" in caught.value.text.en


@pytest.mark.parametrize("source", ["iVBORw0KGgo" * 100_000, "iVBO/Rw0" * 100_000, "../" * 100_000])
def test_a_picture_in_the_place_of_a_path_is_not_repeated(inside: Path, source: str) -> None:
    said = refusal(Sources.below([inside]), source)
    assert source[:100] in said
    assert len(said) < 1000
    if not source.startswith("."):
        assert "data:image/png;base64" in said


def test_without_an_allowed_folder_no_file_is_read(inside: Path) -> None:
    assert "--allow" in refusal(Sources(()), str(inside / "a b.png"))
