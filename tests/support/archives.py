"""Backups made line by line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from router.backup.archive import ArchiveWriter, new_file


@contextlib.contextmanager
def new_archive(path: Path) -> Iterator[ArchiveWriter]:
    """Write a backup of one's own lines."""
    with new_file(path) as raw:
        writer = ArchiveWriter(raw)
        yield writer
        writer.finish()
