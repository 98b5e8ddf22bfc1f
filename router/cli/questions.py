"""A file of questions: the table or JSON lines that a user wrote go in, lines of a batch come out.

In: CSV or another table whose first line names the columns, or JSON lines; batch lines too, which stay as they are.
Out: a file of batch lines. A column, key or cell that would be dropped is refused: its answer would be another one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from engines.json_text import dump_line
from router.cli.common import Language
from router.cli.pictures import PictureError, is_url, to_image_url
from router.cli.text_files import STDIN, TextFileError, read_text_file, split_lines
from router.cli.texts import say
from router.json_count import find_repeated_name
from router.questions import is_empty

CHAT, RESPONSES = ENDPOINTS = ("/v1/chat/completions", "/v1/responses")
COLUMNS: Final = ("question", "image", "id", "model")
KEYS: Final = ("question", "image", "images", "id", "model")
# What batch lines consist of; one of them in the first line tells such a file from one of questions.
_BATCH_KEYS: Final = frozenset({"custom_id", "method", "url", "body"})
# Spreadsheets write the separator of the user's country: "," in English and Chinese, ";" where "," is in numbers.
_SEPARATORS: Final = (",", ";", "\t", "|")
_MAX_CELL: Final = 256 * 1024 * 1024  # a cell may hold a picture as data URL
Json = dict[str, Any]


class RowError(Exception):
    """A file, or a row of it, that no batch lines can be made of; the message is in the user's language."""


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    question: str
    images: list[str]
    id: str
    model: str


@contextlib.contextmanager
def open_lines(
    file: Path, endpoint: str, model: str, language: Language, encoding: str | None = None
) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file of batch lines; of questions, or of lines that are not UTF-8, such a file is made first.

    Args:
        file: what the user gave; ``-`` is stdin.
        endpoint: that the lines ask.
        model: of questions that name none.
        language: of refusals.
        encoding: the file's, where the user names it.

    Yields:
        The lines, at their beginning, and the encoding that they were read in.

    Raises:
        RowError: naming the row that no line can be made of.
    """
    if encoding is None and file.is_file():
        with file.open("rb") as given:
            if _is_batch_line(next((line for line in given if line.strip()), b"")):
                given.seek(0)
                yield given, "utf-8"
                return
    try:
        text, used = read_text_file(file, language, encoding)
    except TextFileError as error:
        raise RowError(str(error)) from None
    name = _name_of(file)
    if not text.strip():
        raise RowError(say("batch.empty", language, file=name))
    with tempfile.TemporaryFile() as made:
        if text.lstrip().startswith("["):
            raise RowError(say("batch.array", language, file=name))
        if not text.lstrip().startswith("{"):
            rows = _read_table(text, name, language)
        elif _is_batch_line(split_lines(text.lstrip(), 1)[0].encode()):
            made.write("\n".join(split_lines(text)).encode())
            rows = iter(())
        else:
            rows = _read_json_lines(text, name, language)
        for line in _to_lines(rows, file, endpoint, model, language):
            made.write(dump_line(line) + b"\n")
        if made.tell() == 0:
            raise RowError(say("batch.empty", language, file=name))
        made.seek(0)
        yield made, used


def _is_batch_line(line: bytes) -> bool:
    try:
        entry = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return False
    return isinstance(entry, dict) and not _BATCH_KEYS.isdisjoint(entry)


def _read_table(text: str, file: str, language: Language) -> Iterator[_Row]:
    names, separator, num_head_lines = _read_head(text, file, language)
    csv.field_size_limit(_MAX_CELL)
    cells = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    number = 0
    try:
        for number, values in enumerate(cells, 1):
            if number <= num_head_lines or not any(value.strip() for value in values):
                continue
            if len(values) != len(names):
                counts = {"cells": len(values), "columns": len(names)}
                raise RowError(say("batch.row.cells", language, file=file, number=number, **counts))
            row: dict[str, list[str]] = {name: [] for name in names}
            for name, value in zip(names, values, strict=True):
                if not is_empty(value):
                    row[name].append(value.strip())
            if row.get(""):
                raise RowError(say("batch.row.unnamed", language, file=file, number=number, value=row[""][0][:40]))
            if not row["question"]:
                raise RowError(say("batch.row.question", language, file=file, number=number))
            first = {name: (row.get(name) or [""])[0] for name in COLUMNS}
            yield _Row(number, first["question"], row.get("image", []), first["id"], first["model"])
    except csv.Error as error:
        raise RowError(say("batch.row.picture", language, file=file, number=number + 1, why=error)) from None


def _read_head(text: str, file: str, language: Language) -> tuple[list[str], str, int]:
    """Read the line that names the columns; returns their names, the separator, and how many lines the head has."""
    first, *rest = split_lines(text, 2)
    separators: tuple[str, ...] = _SEPARATORS
    num_lines = 1
    if (named := re.fullmatch(r'"?sep=(.)"?', first.strip("\ufeff"))) is not None:  # Excel's own first line
        first, num_lines = (rest or [""])[0], 2
        separators = (named[1],)
    names: list[str] = []
    for separator in separators:
        with contextlib.suppress(csv.Error):
            names = [
                " ".join(name.split()).casefold()
                for name in next(csv.reader([first], delimiter=separator, skipinitialspace=True, strict=True), [])
            ]
        if "question" in names:
            break
    else:
        raise RowError(say("batch.head", language, file=file, columns=", ".join(COLUMNS), found=_short(first)))
    unknown = [name for name in names if name and name not in COLUMNS]
    if unknown:
        values = {"names": ", ".join(map(_short, unknown)), "columns": ", ".join(COLUMNS)}
        raise RowError(say("batch.columns", language, file=file, **values))
    twice = [name for name in COLUMNS if name != "image" and names.count(name) > 1]
    if twice:
        raise RowError(say("batch.column.twice", language, file=file, name=twice[0]))
    return names, separator, num_lines


def _read_json_lines(text: str, file: str, language: Language) -> Iterator[_Row]:
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip():
            continue
        where: dict[str, object] = {"file": file, "number": number}
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise RowError(say("batch.row.json", language, why=error, **where)) from None
        if not isinstance(row, dict):
            raise RowError(say("batch.row", language, **where))
        twice = find_repeated_name(line)
        if twice is not None:
            raise RowError(say("batch.row.key.twice", language, name=_short(twice), **where))
        unknown = [key for key in row if key not in KEYS]
        if unknown:
            names = {"names": ", ".join(map(_short, unknown)), "keys": ", ".join(KEYS)}
            raise RowError(say("batch.row.keys", language, **names, **where))
        # Tables turned into JSON have "" or null where a cell is empty.
        given = {key: value for key, value in row.items() if value not in (None, "")}
        if not isinstance(given.get("question"), str) or is_empty(given["question"]):
            raise RowError(say("batch.row", language, **where))
        if "image" in given and given.get("images"):
            raise RowError(say("batch.row.both", language, **where))
        images = [given["image"]] if "image" in given else given.get("images", [])
        if not isinstance(images, list) or not all(isinstance(image, str) and image.strip() for image in images):
            raise RowError(say("batch.row", language, **where))
        name, model = given.get("id", ""), given.get("model", "")
        if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(model, str):
            raise RowError(say("batch.row.id", language, **where))
        yield _Row(number, given["question"], images, str(name), model)


def _to_lines(rows: Iterator[_Row], file: Path, endpoint: str, model: str, language: Language) -> Iterator[Json]:
    numbers: dict[str, int] = {}
    for row in rows:
        where: dict[str, object] = {"file": _name_of(file), "number": row.number}
        custom_id = row.id or f"row-{row.number}"
        first = numbers.setdefault(custom_id, row.number)
        if first != row.number:
            raise RowError(say("batch.row.twice", language, id=_short(custom_id), first=first, **where))
        try:
            urls = [to_image_url(_find_picture(file, image, language), language) for image in row.images]
        except PictureError as error:
            raise RowError(say("batch.row.picture", language, why=error, **where)) from None
        yield {
            "custom_id": custom_id,
            "method": "POST",
            "url": endpoint,
            "body": _to_body(endpoint, row.model or model, row.question, urls),
        }


def _find_picture(file: Path, image: str, language: Language) -> str:
    """Return where a picture is: a file is named as seen from the file that names it."""
    image = image.strip()
    if is_url(image):
        return image
    try:
        path = file.parent / Path(image).expanduser()
        is_there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a zero byte, "~" of an unknown user
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise PictureError(say("ask.file.unreadable", language, path=_short(image), reason=reason)) from None
    if not is_there:
        raise PictureError(say("batch.file.missing", language, path=path))
    return str(path)


def _to_body(endpoint: str, model: str, question: str, urls: list[str]) -> Json:
    if endpoint == RESPONSES:
        content: list[Json] = [{"type": "input_image", "image_url": url} for url in urls]
        content.append({"type": "input_text", "text": question})
        return {"model": model, "input": [{"role": "user", "content": content}]}
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content.append({"type": "text", "text": question})
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def _name_of(file: Path) -> str:
    return "stdin" if file == STDIN else str(file)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
