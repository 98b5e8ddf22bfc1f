"""Log lines: which format, what is on them, and that nothing in them begins a line of its own."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from engines.logs import HumanLines, JsonLines, adopt, chosen, start_logging
from engines.origin import NOWHERE, ORIGIN, Origin

OF_A_JOB = Origin("req_1", "resp_1", f"00-{'a' * 32}-{'b' * 16}-01")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Give the loggers of this process back as they were."""
    names = ("", "router", "engines", "policies", "celery.worker.strategy", "celery.app.trace", "chatty")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    token = ORIGIN.set(NOWHERE)
    with warnings.catch_warnings():
        yield
    ORIGIN.reset(token)
    logging.captureWarnings(False)
    for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("router.work", logging.INFO, "", 0, message, args, None)
    made.__dict__.update(more)
    return made


def json_line(message: str, *args: object, **more: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(JsonLines("worker").format(record(message, *args, **more)))
    return line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("log_format", "stream", "expected"),
    [
        ("auto", Terminal(), "human"),
        ("auto", io.StringIO(), "json"),
        ("json", Terminal(), "json"),
        ("human", io.StringIO(), "human"),
    ],
)
def test_people_at_a_terminal_get_lines_to_read_and_machines_json(
    log_format: Any, stream: io.StringIO, expected: str
) -> None:
    assert chosen(log_format, stream) == expected
    start_logging("api", "INFO", log_format, stream)
    logging.getLogger("router.dispatch").info("begun")
    assert stream.getvalue().startswith("{") == (expected == "json")


def test_a_line_says_when_where_what_and_for_which_request() -> None:
    ORIGIN.set(OF_A_JOB)
    line = json_line("%s ended", "draft", fields={"duration_ms": 12.5}, created=0.25)
    assert line == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "INFO",
        "process": "worker",
        "logger": "router.work",
        "message": "draft ended",
        "request_id": "req_1",
        "response_id": "resp_1",
        "trace_id": "a" * 32,
        "duration_ms": 12.5,
    }
    said = HumanLines("worker").format(record("draft ended", fields={"duration_ms": 12.5}))
    assert said.endswith(f" INFO    worker router.work: draft ended duration_ms=12.5 [req_1 resp_1 {'a' * 32}]")


def test_work_of_no_request_names_none() -> None:
    assert not {"request_id", "response_id", "trace_id"} & json_line("tick").keys()
    assert "[" not in HumanLines("api").format(record("tick"))


@pytest.mark.parametrize("forged", ["\n2026-01-01 INFO all is well", "\r\x1b[2J", "\x9b31m", "\u2028next"])
def test_no_text_of_a_caller_begins_a_line_or_commands_a_terminal(forged: str) -> None:
    ORIGIN.set(Origin(forged))
    for line in (HumanLines("api").format(record("%s", forged)), JsonLines("api").format(record("%s", forged))):
        assert len(line.splitlines()) == 1
        assert not {"\x1b", "\x9b"} & set(line)


def test_half_a_surrogate_pair_is_written_all_the_same() -> None:
    assert json_line("a \ud800 b", fields={"path": "\udcff"})["path"] == "\\udcff"
    assert "\\ud800" in HumanLines("api").format(record("a \ud800 b"))


@pytest.mark.parametrize("form", [JsonLines("api"), HumanLines("api")])
def test_a_traceback_is_kept(form: logging.Formatter) -> None:
    try:
        raise KeyError("lost")
    except KeyError as error:
        line = form.format(record("failed", exc_info=(type(error), error, error.__traceback__)))
    assert "KeyError: 'lost'" in line
    assert isinstance(form, HumanLines) or len(line.splitlines()) == 1


def test_debug_is_for_our_own_code_libraries_could_write_what_they_send() -> None:
    out = io.StringIO()
    start_logging("api", "DEBUG", "json", out)
    logging.getLogger("router.dispatch").debug("ours")
    logging.getLogger("aiohttp").debug("theirs")
    logging.getLogger("aiohttp").info("heard")
    logging.getLogger("celery.app.trace").info("succeeded")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["ours", "heard"]


def test_warnings_and_libraries_that_write_by_themselves_are_lines_like_all_others() -> None:
    out, own = io.StringIO(), io.StringIO()
    chatty = logging.getLogger("chatty")
    chatty.addHandler(logging.StreamHandler(own))
    chatty.propagate = False
    start_logging("glm", "WARNING", "json", out)
    adopt("chatty")
    chatty.warning("slow")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["logger"] for line in lines] == ["chatty", "py.warnings"]
    assert own.getvalue() == ""
