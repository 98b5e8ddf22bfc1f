"""docs/errors.md names every code that the source can send, and none that it cannot."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from scripts import doc_pages
from scripts.doc_pages import errors_page
from scripts.error_codes import RECORD, find_codes
from tests.docs.pages import ROOT


def test_a_code_is_found_wherever_it_is_given(tmp_path: Path) -> None:
    source = """
        @dataclass
        class Problem:
            said: str
            code: str

        def refuse(status, code):
            raise EngineFailedError("no", code=code)

        def answer(reason, status, body):
            code, said = {404: ("no_path", "a")}.get(status, ("other_status", "b"))
            known = {405: "no_method"}
            code = known.get(status, "other_method")
            refuse(431, "too_long")
            Problem("text", "bad_line")
            raise BadRequestError("said_of_it", code="too_late" if reason == "time_over" else "too_early")
            return {"code": "was_lost", "message": "not_a_code"}

        fail("text", code=2)
        texts.fill(code="told_by_text")
    """
    for folder in ("router/api", "router/cli", "engines"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "router/api/one.py").write_text(textwrap.dedent(source))
    (tmp_path / "router/cli/two.py").write_text('raise CliError(code="exit_status")')
    (tmp_path / "engines/three.py").write_text('raise InvalidImageError("no", code="no_picture")')

    assert find_codes(tmp_path) == {
        "BadRequestError": {"too_late", "too_early", "time_over"},  # one too many is harmless: it has to be named
        "EngineFailedError": set(),
        "InvalidImageError": {"no_picture"},
        RECORD: {"no_path", "other_status", "no_method", "other_method", "too_long", "bad_line", "was_lost"},
    }


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_code_has_a_meaning_and_what_to_do_about_it(lang: doc_pages.Lang) -> None:
    page = errors_page(lang)

    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    for code in set().union(*find_codes(ROOT).values()) | {"empty_answer", "websocket_connection_limit_reached"}:
        said = [row for row in rows if f"`{code}`" in " ".join(row[:2])]
        assert said, code
        assert all(len(row) >= 3 and len(row[-2]) > 3 and len(row[-1]) > 3 for row in said), code


def test_a_code_without_a_meaning_stops_the_page_and_so_does_one_that_nothing_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = find_codes(ROOT)
    monkeypatch.setattr(doc_pages, "find_codes", lambda _: {**codes, RECORD: codes[RECORD] | {"quite_new"}})
    with pytest.raises(SystemExit, match="quite_new"):
        errors_page("en")

    monkeypatch.setattr(doc_pages, "find_codes", lambda _: {**codes, RECORD: codes[RECORD] - {"empty_answer"}})
    with pytest.raises(SystemExit, match="empty_answer"):
        errors_page("en")
