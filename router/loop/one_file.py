"""Kept answers in one file, and back.

In: the folder, which an api may go on writing. Out: a tar, gzipped, with one moment of the database and the pictures
that its rows keep; or the folder as it was. A picture that is deleted while the file is written is missing in it.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from typing import Final

from router.backup import texts
from router.backup.archive import ArchiveError, new_file
from router.loop.store import FILE, PICTURES, SCHEMA

# Where a folder is unpacked before anything of it counts; inside, since the folder may be a volume of its own.
_UNPACKED: Final = ".restoring"


def write_kept(folder: Path, file: Path) -> int:
    """Write a file; returns how many exchanges are in it.

    Args:
        folder: of `router.loop.store`, with a database in it.
        file: must not be there.

    Raises:
        FileExistsError: if it is.
        OSError, sqlite3.Error: if something cannot be read or written.
    """
    with (
        new_file(file) as raw,
        tempfile.TemporaryDirectory(prefix=".glowl-backup-", dir=file.parent) as own,
        tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as tar,
    ):
        copy = Path(own) / FILE
        with closing(sqlite3.connect(folder / FILE)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)  # begins anew, by itself, when another connection writes meanwhile
            names = [name for (name,) in target.execute("SELECT sha256 FROM pictures WHERE is_kept ORDER BY sha256")]
            count = int(target.execute("SELECT count(*) FROM exchanges").fetchone()[0])
        tar.add(copy, FILE)
        for name in names:
            inside = f"{PICTURES}/{name[:2]}/{name}"
            if (folder / inside).is_file():
                tar.add(folder / inside, inside)
    return count


def restore_kept(file: Path, folder: Path, *, is_replacing: bool = False) -> int:
    """Put a file's exchanges into a folder, all or nothing; returns how many.

    Args:
        file: that `write_kept` wrote.
        folder: nobody may use it meanwhile.
        is_replacing: what is in it is deleted.

    Raises:
        ArchiveError: if the file is none of ours, damaged, or of a newer release; or if the folder has answers.
        OSError: if something cannot be read or written.
    """
    if (folder / FILE).exists() and not is_replacing:
        raise ArchiveError(texts.KEPT_IN_USE.fill(folder=folder))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unpacked = folder / _UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        unpacked.mkdir(mode=0o700)
        count = _unpack(file, unpacked)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
        for suffix in ("-wal", "-shm"):
            (folder / f"{FILE}{suffix}").unlink(missing_ok=True)
        if (unpacked / PICTURES).is_dir():
            (unpacked / PICTURES).rename(folder / PICTURES)
        (unpacked / FILE).replace(folder / FILE)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return count


def _unpack(file: Path, unpacked: Path) -> int:
    """Unpack and check; returns how many exchanges there are.

    Raises:
        ArchiveError: if it cannot be what `write_kept` wrote.
    """
    try:
        with tarfile.open(file, "r:gz") as tar:
            tar.extractall(unpacked, filter="data")
        with closing(sqlite3.connect(unpacked / FILE)) as db:
            db.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
            (state,) = db.execute("PRAGMA integrity_check").fetchone()
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if state != "ok":
                raise ArchiveError(texts.CHANGED)
            if found > SCHEMA:
                raise ArchiveError(texts.NEWER.fill(what="schema", found=found, known=SCHEMA))
            count = int(db.execute("SELECT count(*) FROM exchanges").fetchone()[0])
    except (tarfile.TarError, sqlite3.Error, EOFError, zlib.error) as error:
        raise ArchiveError(texts.CHANGED) from error
    except OSError as error:
        if error.errno is None:  # gzip's own, of a file that is none
            raise ArchiveError(texts.CHANGED) from error
        raise
    for picture in (unpacked / PICTURES).glob("*/*"):
        if hashlib.sha256(picture.read_bytes()).hexdigest() != picture.name:
            raise ArchiveError(texts.CHANGED)
    return count
