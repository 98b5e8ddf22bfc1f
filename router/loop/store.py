"""Kept exchanges in SQLite: one file in a folder, which all processes of one machine share.

In: exchanges, pictures, feedback, and what is to be forgotten. Out: rows. Deleted bytes are overwritten: SQLite zeroes
freed pages, and its log is emptied behind each deletion. Every method blocks; `router.loop.capture` calls it beside the
event loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from engines.base import ImagePart
from router.loop.pictures import Look
from router.loop.records import Answer, Exchange, Feedback

FILE: Final = "loop.sqlite"
PICTURES: Final = "pictures"
SCHEMA: Final = 1
# Of a write of another process. Longer than any write takes, a deletion of everything aside.
_BUSY_S: Final = 30.0
# An exchange that is still on its way when it is deleted must not come back.
_REMEMBER_DELETED_S: Final = 30 * 86_400.0
_AT_ONCE: Final = 500

_TABLES: Final = """
CREATE TABLE exchanges (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL, keep_until REAL NOT NULL, took_s REAL, state TEXT,
  question TEXT, messages TEXT, language TEXT, route TEXT, rule TEXT, engine TEXT, decision TEXT, answers TEXT,
  draft TEXT, deep TEXT, final TEXT, final_model TEXT, final_engine TEXT, strategy TEXT, agreement REAL,
  conflicts TEXT, degraded TEXT, cache TEXT, adapter TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
  image_tokens INTEGER, error TEXT, propensity REAL, again TEXT, asks_json INTEGER, pictures TEXT, revisions TEXT
);
CREATE INDEX exchanges_by_owner ON exchanges (owner, at);
CREATE INDEX exchanges_by_end ON exchanges (keep_until);
CREATE INDEX exchanges_by_question ON exchanges (again) WHERE again != '';
CREATE TABLE shown (exchange_id TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (exchange_id, sha256));
CREATE INDEX shown_by_picture ON shown (sha256);
CREATE TABLE pictures (
  sha256 TEXT PRIMARY KEY, media_type TEXT, num_bytes INTEGER, width_px INTEGER, height_px INTEGER, kind TEXT,
  small BLOB, is_kept INTEGER NOT NULL
);
CREATE TABLE feedback (
  exchange_id TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL, rating TEXT, correction TEXT, fields TEXT,
  comment TEXT
);
CREATE TABLE deleted (id TEXT PRIMARY KEY, at REAL NOT NULL);
"""
_JSON: Final = ("messages", "decision", "answers", "conflicts", "degraded", "pictures", "revisions")
_SAID: Final = "f.at AS f_at, f.rating, f.correction, f.fields, f.comment"
_COLUMNS: Final = tuple(each.name for each in fields(Exchange) if each.name != "feedback")


class NewerLoopError(Exception):
    """The file was written by a newer release."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture as it is stored.

    Attributes:
        look: what is known of it.
        file: with its bytes; None if only the look is kept.
    """

    look: Look
    file: Path | None


class LoopStore:
    """The file, opened by one thread.

    Args:
        folder: made if it is not there.

    Raises:
        OSError: if the folder cannot be made.
        sqlite3.Error: if the file cannot be opened; by every method, if it cannot be read or written.
        NewerLoopError: if a newer release wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / FILE
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> LoopStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, exchange: Exchange, pictures: Sequence[tuple[Look, ImagePart | None]], keep_until: float) -> bool:
        """Keep an exchange; one that is there already is replaced.

        Args:
            exchange: ended, redacted.
            pictures: each with its bytes, or None to keep only its look.
            keep_until: unix seconds.

        Returns:
            False if it was deleted before it came.
        """
        row = {name: getattr(exchange, name) for name in _COLUMNS}
        row["answers"] = {name: asdict(answer) for name, answer in exchange.answers.items()}
        row |= {name: json.dumps(row[name], ensure_ascii=False) for name in _JSON}
        row |= {"keep_until": keep_until, "draft": exchange.draft, "deep": exchange.deep}
        with self._writing():
            gone = "SELECT 1 FROM deleted WHERE id IN (?, ?) OR (id = ? AND at >= ?)"
            if self._db.execute(gone, (exchange.id, exchange.again, exchange.owner, exchange.at)).fetchone():
                return False
            names = ", ".join(row)
            places = ", ".join(f":{name}" for name in row)
            self._db.execute(f"INSERT OR REPLACE INTO exchanges ({names}) VALUES ({places})", row)  # noqa: S608
            for look, image in pictures:
                self._put_picture(exchange.id, look, image)
        return True

    def put_feedback(self, response_id: str, owner: str, feedback: Feedback) -> None:
        """Keep what was said of an answer, in place of what was said before."""
        row = (
            *(response_id, owner, feedback.at, feedback.rating),
            *(None if feedback.correction is None else json.dumps(feedback.correction, ensure_ascii=False),),
            *(json.dumps(dict(feedback.fields), ensure_ascii=False), feedback.comment),
        )
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def get(self, response_id: str) -> Exchange | None:
        """Return an exchange with its feedback; None if there is none."""
        return next(self._read("WHERE e.id = ?", (response_id,)), None)

    def feedback(self, response_id: str) -> Feedback | None:
        """Return what was said of an answer, whether or not it is kept here."""
        row = self._db.execute(f"SELECT {_SAID} FROM feedback f WHERE exchange_id = ?", (response_id,)).fetchone()  # noqa: S608
        return None if row is None else _to_feedback(row)

    def lone_feedback(self) -> dict[str, Feedback]:
        """Return what was said of answers that are not kept here, by their ids: another machine keeps them."""
        query = f"SELECT exchange_id, {_SAID} FROM feedback f WHERE exchange_id NOT IN (SELECT id FROM exchanges)"  # noqa: S608
        return {row["exchange_id"]: said for row in self._db.execute(query) if (said := _to_feedback(row)) is not None}

    def select(
        self,
        *,
        owner: str = "",
        since: float = 0.0,
        until: float = float("inf"),
        limit: int = -1,
        newest: bool = False,
        with_again: bool = False,
    ) -> Iterator[Exchange]:
        """Read exchanges, the oldest first.

        Args:
            owner: whose; empty for all.
            since: unix seconds.
            until: likewise, not included.
            limit: at most so many; -1 for all.
            newest: the newest first.
            with_again: those too that nobody asked, but the service itself (`router.second_looks`).
        """
        order = "DESC" if newest else "ASC"
        asked = "" if with_again else "AND json_extract(e.decision, '$.again') IS NULL "
        where = f"WHERE e.at >= ? AND e.at < ? AND (? = '' OR e.owner = ?) {asked}ORDER BY e.at {order}, e.id LIMIT ?"
        yield from self._read(where, (since, min(until, 1e18), owner, owner, limit))

    def doubtful(self, owner: str, *, before: Exchange | None = None) -> Iterator[Exchange]:
        """Read an owner's exchanges that may be wrong and that nobody has corrected, the newest first.

        Args:
            owner: whose.
            before: those behind it in the list; None for all.
        """
        at, name = (1e18, "") if before is None else (before.at, before.id)
        where = (
            "WHERE e.owner = ? AND e.at <= ? AND (e.at < ? OR e.id < ?) AND e.final != '' AND e.again = '' "
            "AND f.correction IS NULL AND (f.rating = 'down' OR (f.rating IS NULL "
            "AND (e.conflicts != '[]' OR e.agreement IS NOT NULL))) ORDER BY e.at DESC, e.id DESC"
        )
        yield from self._read(where, (owner, at, at, name))

    def count(self, owner: str) -> int:
        """Return how many exchanges of an owner are kept."""
        return int(self._db.execute("SELECT count(*) FROM exchanges WHERE owner = ?", (owner,)).fetchone()[0])

    def pictures(self, hashes: Iterable[str]) -> dict[str, Kept]:
        """Return what is known of pictures, by SHA-256; those that are not known are left out."""
        found: dict[str, Kept] = {}
        names = list(dict.fromkeys(hashes))
        for at in range(0, len(names), _AT_ONCE):
            some = names[at : at + _AT_ONCE]
            marks = ",".join("?" * len(some))
            for row in self._db.execute(f"SELECT * FROM pictures WHERE sha256 IN ({marks})", some):  # noqa: S608
                look = Look(**{name: row[name] for name in (each.name for each in fields(Look))})
                found[look.sha256] = Kept(look, self._path_of(look.sha256) if row["is_kept"] else None)
        return found

    def delete(self, names: Mapping[str, float]) -> int:
        """Forget exchanges with their second looks, feedback, and the pictures that only they show.

        Args:
            names: ids of responses, and of owners whose exchanges go as far as they are older than this (unix seconds).

        Returns:
            How many exchanges there were.
        """
        gone = 0
        with self._writing():
            for name, at in names.items():
                self._db.execute("INSERT OR REPLACE INTO deleted VALUES (?, ?)", (name, at))
                gone += self._delete("id = ? OR again = ? OR (owner = ? AND at <= ?)", name, name, name, at)
                said = "DELETE FROM feedback WHERE exchange_id = ? OR (owner = ? AND at <= ?)"
                self._db.execute(said, (name, name, at))
            self._drop_unshown()
        self._empty_log()
        return gone

    def owners(self) -> set[str]:
        """Return whose exchanges or feedback are kept."""
        query = "SELECT DISTINCT owner FROM exchanges UNION SELECT DISTINCT owner FROM feedback"
        return {row["owner"] for row in self._db.execute(query)}

    def expire(self, now: float, keep_s: Mapping[str, float] = MappingProxyType({})) -> int:
        """Forget what was kept for long enough; returns how many exchanges that were.

        Args:
            now: unix seconds.
            keep_s: for how long an owner's are kept by now, by its id: a time that was shortened counts for what is
                kept already. Of owners that are not in it, what was said when an exchange was kept counts.
        """
        with self._writing():
            gone = self._delete("keep_until <= ?", now)
            for owner, seconds in keep_s.items():
                gone += self._delete("owner = ? AND at <= ?", owner, now - seconds)
            self._drop_lone_feedback(now, keep_s)
            self._db.execute("DELETE FROM deleted WHERE at < ?", (now - _REMEMBER_DELETED_S,))
            if gone:
                self._drop_unshown()
        self._empty_log()  # also if a reader kept the last deletion from doing so
        return gone

    def sweep(self) -> int:
        """Delete files of pictures that no row keeps, which a process left that died while writing; returns how many.

        Everybody who writes a file writes its row in the same transaction, so in one of our own none is on its way.
        """
        gone = 0
        with self._writing():
            kept = {row["sha256"] for row in self._db.execute("SELECT sha256 FROM pictures WHERE is_kept")}
            for path in (self.folder / PICTURES).glob("*/*"):
                if path.name not in kept:
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone

    def _drop_lone_feedback(self, now: float, keep_s: Mapping[str, float]) -> None:
        """Forget old feedback on answers that another machine keeps: nothing here would take it along."""
        query = "SELECT exchange_id, owner, at FROM feedback WHERE exchange_id NOT IN (SELECT id FROM exchanges)"
        for response_id, owner, at in self._db.execute(query).fetchall():
            if at <= now - keep_s.get(owner, _REMEMBER_DELETED_S):
                self._db.execute("DELETE FROM feedback WHERE exchange_id = ?", (response_id,))

    def _prepare(self) -> None:
        with self._writing():
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found > SCHEMA:
                raise NewerLoopError(f"{self.folder / FILE} was written by a newer release (schema {found} > {SCHEMA})")
            if found == 0:
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put_picture(self, exchange_id: str, look: Look, image: ImagePart | None) -> None:
        self._db.execute("INSERT OR IGNORE INTO shown VALUES (?, ?)", (exchange_id, look.sha256))
        if image is not None:
            path = self._path_of(look.sha256)
            if not path.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
                temporary.write_bytes(image.data)
                os.replace(temporary, path)
        self._db.execute(
            "INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (sha256) DO UPDATE SET is_kept = max(is_kept, excluded.is_kept)",
            (
                *(look.sha256, look.media_type, look.num_bytes, look.width_px, look.height_px, look.kind, look.small),
                int(image is not None),
            ),
        )

    def _delete(self, where: str, *values: object) -> int:
        ids = [row["id"] for row in self._db.execute(f"SELECT id FROM exchanges WHERE {where}", values)]  # noqa: S608
        for response_id in ids:
            self._db.execute("DELETE FROM shown WHERE exchange_id = ?", (response_id,))
            self._db.execute("DELETE FROM feedback WHERE exchange_id = ?", (response_id,))
            self._db.execute("DELETE FROM exchanges WHERE id = ?", (response_id,))
        return len(ids)

    def _drop_unshown(self) -> None:
        """Forget pictures that no exchange shows; their files inside the transaction, so that none can come back."""
        query = "SELECT sha256 FROM pictures WHERE sha256 NOT IN (SELECT sha256 FROM shown)"
        for (sha256,) in self._db.execute(query).fetchall():
            self._db.execute("DELETE FROM pictures WHERE sha256 = ?", (sha256,))
            self._path_of(sha256).unlink(missing_ok=True)

    def _empty_log(self) -> None:
        """Empty the write-ahead log, which has deleted rows as they were."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _path_of(self, sha256: str) -> Path:
        return self.folder / PICTURES / sha256[:2] / sha256

    def _read(self, where: str, values: tuple[object, ...]) -> Iterator[Exchange]:
        query = (
            f"SELECT e.*, {_SAID} FROM exchanges e "  # noqa: S608
            f"LEFT JOIN feedback f ON f.exchange_id = e.id {where}"
        )
        for row in self._db.execute(query, values):
            yield _to_exchange(row)


def _to_exchange(row: sqlite3.Row) -> Exchange:
    found: dict[str, Any] = {name: json.loads(row[name]) if name in _JSON else row[name] for name in _COLUMNS}
    found["answers"] = {name: Answer(**each) for name, each in found["answers"].items()}
    for name in ("conflicts", "degraded", "pictures"):
        found[name] = tuple(found[name])
    found["asks_json"] = bool(found["asks_json"])
    return Exchange(**found, feedback=_to_feedback(row))


def _to_feedback(row: sqlite3.Row) -> Feedback | None:
    if row["f_at"] is None:
        return None
    correction = None if row["correction"] is None else json.loads(row["correction"])
    return Feedback(row["rating"], correction, json.loads(row["fields"]), row["comment"], row["f_at"])
