"""The file of a backup: gzipped lines of JSON, the first and last of which say what is between them.

In: lines of keys. Out: a file that is there as a whole or not at all; and its lines again, once all of them were
checked. ``zcat FILE | head`` shows what is in it.

First line: ``{"format": "glowl-backup", "version": 1, "schema": N, "made_at": "…"}``. Then one line for each key; a
later line of the same key counts in place of the earlier, and the type ``none`` says that the key was gone by then.
Last line: ``{"keys": N, "sha256": "…"}``, how many lines of keys there are, and the hash of all before it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson

from policies.text import TextError
from router.backup import texts
from router.schema import SCHEMA

FORMAT: Final = "glowl-backup"
VERSION: Final = 1
# A picture of 64 MB in base64, and something around it.
_MAX_LINE_BYTES: Final = 256 * 1024**2
_LEVEL: Final = 3
_MAGIC: Final = b"\x1f\x8b"  # of every gzip file


class ArchiveError(TextError):
    """A file that is no backup, or none that can be read."""


class ArchiveWriter:
    """Writes lines into an open file.

    Args:
        raw: where to.

    Raises:
        OSError: by every method, when it cannot be written.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._zip = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_LEVEL, filename="", mtime=0)
        self._hash = hashlib.sha256()
        self._num_keys = 0
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._write({"format": FORMAT, "version": VERSION, "schema": SCHEMA, "made_at": made_at})

    def add(self, line: dict[str, Any]) -> None:
        """Add the line of a key."""
        self._num_keys += 1
        self._write(line)

    def finish(self) -> None:
        """Write the last line; without it the file is no backup."""
        self._write({"keys": self._num_keys, "sha256": self._hash.hexdigest()})
        self._zip.close()

    def _write(self, line: dict[str, Any]) -> None:
        data = orjson.dumps(line) + b"\n"
        self._hash.update(data)
        self._zip.write(data)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside its later place, which it takes at the end, whole and on disk; after an error it is gone.

    Raises:
        FileExistsError: if something is there already.
        OSError: if it cannot be written.
    """
    if path.exists():
        raise FileExistsError(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        # Secrets of webhooks and everybody's questions are in it.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        partial.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # or the name could be gone after the machine lost its power
        os.close(folder)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_archive(path: Path) -> tuple[dict[str, Any], int]:
    """Read a whole file; returns its first line, and how many keys' lines it has.

    Raises:
        ArchiveError: if it is no backup, of a newer Glowl, cut or changed.
        OSError: if it cannot be read.
    """
    header: dict[str, Any] | None = None
    digest, num_keys, last = hashlib.sha256(), -1, b""
    for data in _lines(path):
        if header is None:
            header = _header(data)
        digest.update(last)
        last, num_keys = data, num_keys + 1
    if header is None:
        raise ArchiveError(texts.NO_BACKUP)
    footer = _parsed(last)
    if num_keys < 1 or "sha256" not in footer:
        raise ArchiveError(texts.CUT)
    if (footer.get("keys"), footer["sha256"]) != (num_keys - 1, digest.hexdigest()):
        raise ArchiveError(texts.CHANGED)
    return header, num_keys - 1


def read_archive(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of keys of a file that `check_archive` found good."""
    before: bytes | None = None
    for number, data in enumerate(_lines(path)):
        if before is not None:
            yield _parsed(before)
        before = data if number else None


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = _parsed(data)
    except ArchiveError as error:
        raise ArchiveError(texts.NO_BACKUP) from error
    if header.get("format") != FORMAT:
        raise ArchiveError(texts.NO_BACKUP)
    for name, known in (("version", VERSION), ("schema", SCHEMA)):
        if not isinstance(header.get(name), int) or header[name] > known:
            raise ArchiveError(texts.NEWER.fill(what=name, found=header.get(name), known=known))
    return header


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw, mode="rb") as lines:
        if raw.read(len(_MAGIC)) != _MAGIC:
            raise ArchiveError(texts.NO_BACKUP)
        raw.seek(0)
        while data := _line(lines):
            yield data


def _line(lines: gzip.GzipFile) -> bytes:
    try:
        data = lines.readline(_MAX_LINE_BYTES)
    except EOFError as error:
        raise ArchiveError(texts.CUT) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ArchiveError(texts.CHANGED) from error
    if data and not data.endswith(b"\n"):
        raise ArchiveError(texts.CHANGED)
    return data


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        line = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ArchiveError(texts.CHANGED) from error
    if not isinstance(line, dict):
        raise ArchiveError(texts.CHANGED)
    return line
