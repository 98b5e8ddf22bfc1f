"""Log lines of every process: JSON for machines, or one that people can read; both name the request they are about.

In: records of `logging`, and the `Origin` of what runs. Out: lines on stderr. A message and the fields beside it hold
ids, numbers and words of ours; never a question, an answer, a picture or a key.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import orjson

from engines.origin import ORIGIN

LogFormat = Literal["auto", "json", "human"]
LOG_FORMATS: Final = ("auto", "json", "human")

# Below INFO, libraries may write what they send and receive: only our own code is ever heard there.
_OURS: Final = ("router", "engines", "policies")
# Of a ticket, celery says only that it came and went; the run that it led to is a line of ours.
_WORDY: Final = ("celery.worker.strategy", "celery.app.trace")
# What would begin a line of its own, or command a terminal.
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def start_logging(
    process: str,
    level: str,
    log_format: LogFormat = "auto",
    stream: TextIO | None = None,
    *,
    adapt: Callable[[logging.LogRecord], bool] | None = None,
) -> None:
    """Let this process write its log; whatever wrote it before is replaced.

    Args:
        process: its name, on every line: ``api``, ``worker``, ``glm``, ``owl2``.
        level: the lowest that is written, as DEBUG or INFO; of libraries never below INFO.
        log_format: ``auto`` is ``human`` on a terminal and ``json`` elsewhere.
        stream: where to; None for stderr.
        adapt: changes each record before it is written; False leaves it out. None changes none.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(process) if chosen(log_format, stream) == "json" else HumanLines(process))
    if adapt is not None:
        handler.addFilter(adapt)
    wanted = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(wanted, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(wanted)
    for name in _WORDY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def chosen(log_format: LogFormat, stream: TextIO | None = None) -> Literal["json", "human"]:
    """Return what a format is for a stream; None is stderr."""
    if log_format != "auto":
        return log_format
    return "human" if (stream or sys.stderr).isatty() else "json"


def adopt(library: str) -> None:
    """Let a library that writes its log by itself write into ours."""
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True


class _Lines(logging.Formatter):
    """Makes lines of records.

    Args:
        process: named on every line.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process


class JsonLines(_Lines):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage().strip(),
            **_ids(),
            **_fields(record),
        }
        if (traceback := _traceback(self, record)) is not None:
            line["traceback"] = traceback
        try:
            text = orjson.dumps(line, default=str).decode()
        except TypeError:  # half of a surrogate pair, which no encoding has
            text = orjson.dumps({name: _encodable(value) for name, value in line.items()}, default=str).decode()
        return text if text.isascii() else _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class HumanLines(_Lines):
    """One line with what happened, then its fields, then whose request it was."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        message = record.getMessage().strip()
        said = "".join(f" {name}={value}" for name, value in _fields(record).items())
        ids = " ".join(str(value) for value in _ids().values())
        text = f"{message}{said}{f' [{ids}]' if ids else ''}"
        head = f"{at}.{int(record.msecs):03d} {record.levelname:<7} {self._process} {record.name}: "
        line = head + str(_encodable(_CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)))
        traceback = _traceback(self, record)
        return line if traceback is None else f"{line}\n{_encodable(traceback)}"


def _ids() -> dict[str, str]:
    origin = ORIGIN.get()
    ids: dict[str, str] = {}
    if origin.request_id:
        ids["request_id"] = origin.request_id
    if origin.response_id:
        ids["response_id"] = origin.response_id
    if origin.traceparent:
        ids["trace_id"] = origin.traceparent[3:35]
    return ids


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return what a record says beside its message: ``extra={"fields": {...}}``."""
    found = getattr(record, "fields", None)
    return found if isinstance(found, Mapping) else {}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    if record.exc_info:
        return formatter.formatException(record.exc_info)
    return formatter.formatStack(record.stack_info) if record.stack_info else None


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
