"""The form of the audit log: lines of JSON that hold each other's hashes, in a file for each day and process.

In: records; bytes of a file. Out: lines; what a line says, and whether it is as it was written. The hash of a line
covers the one before, so a line that is changed, taken out or moved breaks the chain there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from engines.json_text import dump_line

_FILE: Final = re.compile(r"(\d{4}-\d{2}-\d{2})\.([a-z]+-[0-9a-f]{8})\.jsonl")
_END: Final = re.compile(rb',"hash":"([0-9a-f]{64})"\}')


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a chain, to which the next line is tied.

    Attributes:
        number: of the last line, counted from 1 over all days of a process.
        hash: of that line, hex; empty before the first.
    """

    number: int = 0
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it stands in a file.

    Attributes:
        record: what it says; empty if it is no JSON object.
        number: the one it has; 0 if it has none.
        before: the hash of the line before, as it says.
        hash: its own, as it says.
        is_intact: it is as it was written.
    """

    record: Mapping[str, Any]
    number: int
    before: str
    hash: str
    is_intact: bool

    @property
    def link(self) -> Link:
        """To which the next line is tied."""
        return Link(self.number, self.hash)


@dataclass(frozen=True, slots=True, order=True)
class DayFile:
    """The name of a file.

    Attributes:
        day: in UTC, as 2026-11-29.
        chain: of which process: ``api-`` and eight hex digits, new at each start.
    """

    day: str
    chain: str

    @property
    def name(self) -> str:
        """The file of the lines."""
        return f"{self.day}.{self.chain}.jsonl"

    @property
    def head_name(self) -> str:
        """The file that says how far the lines went when they were last written."""
        return f"{self.day}.{self.chain}.head"


def day_of(unix_s: float) -> str:
    """Return the day of a moment, in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")


def to_iso(unix_s: float) -> str:
    """Return a moment in UTC, as 2026-11-29T12:00:00.000Z."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def files_in(folder: Path) -> list[DayFile]:
    """Return the files of a log, the oldest day first; nothing if there is no folder.

    Raises:
        OSError: if the folder cannot be read.
    """
    if not folder.exists():
        return []
    found = (_FILE.fullmatch(path.name) for path in folder.iterdir())
    return sorted(DayFile(each[1], each[2]) for each in found if each is not None)


def to_line(record: Mapping[str, Any], last: Link) -> tuple[bytes, Link]:
    """Return a record as a line with its line end, and the new end of the chain."""
    tied = {**record, "n": last.number + 1, "prev": last.hash}
    try:
        text = dump_line(tied)
    except (
        orjson.JSONEncodeError
    ):  # a lone surrogate in what a client sent: JSON can escape it, UTF-8 has no bytes for it
        text = json.dumps(tied, default=str, separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest()
    return b'%s,"hash":"%s"}\n' % (text[:-1], digest.encode()), Link(last.number + 1, digest)


def read_line(text: bytes) -> Line:
    """Read a line without its line end."""
    end = _END.fullmatch(text[-75:])
    own = end[1].decode() if end is not None else ""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        return Line({}, 0, "", own, is_intact=False)
    number, before = record.get("n"), record.get("prev")
    is_intact = hashlib.sha256(text[:-75] + b"}").hexdigest() == own and isinstance(number, int)
    return Line(
        record, number if isinstance(number, int) else 0, before if isinstance(before, str) else "", own, is_intact
    )


class HeadError(Exception):
    """A head file is there, and cannot be read, or says nothing of use."""


def read_head(path: Path) -> Link | None:
    """Read how far the lines of a file went; None if there is no such file.

    Raises:
        HeadError: if it cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
        return Link(int(found["n"]), str(found["hash"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HeadError(error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError):
        raise HeadError("it is no JSON with n and hash") from None


def to_head(last: Link) -> bytes:
    """Write that."""
    return orjson.dumps({"n": last.number, "hash": last.hash})
