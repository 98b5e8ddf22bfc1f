"""The report of a known log: forty questions, counted by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli.main import app
from router.loop.pictures import look_at
from router.loop.records import Exchange, Feedback
from router.loop.report.numbers import Prices, measure, percentiles, to_pattern
from router.loop.report.page import to_html
from router.loop.store import Kept, LoopStore
from tests.support.exchanges import exchange, make_picture

ATTACK = '<script>alert(1)</script><img src=x onerror="alert(2)">'


def _log() -> list[Exchange]:
    """Thirty fast answers of 1 to 30 s, eight deep ones of 10 s, a failure, an answer of the cache, a second look."""
    fast = [
        exchange(
            number, at=1000.0 + number, route="fast", engine="glm", rule="chinese", language="zh", took_s=float(number),
            question=f"第 {number} 张票合计多少？", agreement=None, conflicts=(), final_engine="glm",
            prompt_tokens=100, completion_tokens=10,
        )
        for number in range(1, 31)
    ]  # fmt: skip
    deep = [
        exchange(
            number, at=1000.0 + number, language="en", took_s=10.0, question="How many “blue” shapes?",
            agreement=(0.1, 0.2, 0.55, 0.7, 0.9, 0.95, 1.0, 1.0)[number - 31], prompt_tokens=200, completion_tokens=20,
            conflicts=({"kind": "number"},) if number == 35 else (),
        )
        for number in range(31, 39)
    ]  # fmt: skip
    failed = exchange(
        39, at=1039.0, state="failed", final="", final_engine="", error="engine_unavailable", agreement=None
    )
    hit = replace(fast[0], id="resp_40", at=1040.0, took_s=99.0, cache="hit", feedback=Feedback("down"))
    again = exchange(41, at=1041.0, again="resp_1", agreement=0.0)
    return [*fast, *deep, failed, hit, again]


def test_the_numbers_are_those_of_the_log() -> None:
    picture = make_picture()
    log = [replace(each, pictures=(picture.sha256,)) if each.id in ("resp_1", "resp_2") else each for each in _log()]
    found = measure(log, {picture.sha256: Kept(look_at(picture), None)}, Prices(2.0, 10.0))
    assert (found.num_exchanges, found.first_at, found.last_at) == (40, 1001.0, 1040.0)
    assert found.routes == {"fast: glm": 31, "deep: owl2": 9}
    assert found.rules == {"chinese": 31, "several_images": 9}
    assert found.languages == {"zh": 32, "en": 8}
    assert found.states == {"completed": 39, "failed": 1}
    assert (found.errors, found.ratings) == ({"engine_unavailable": 1}, {"down": 1})
    assert (found.picture_kinds, found.picture_sizes) == ({"graphic": 1}, {"up to 0.1 MP": 1})
    assert found.patterns[:2] == [("第 # 张票合计多少?", 31), ("how many “…” shapes?", 8)]
    # The nearest ranks of 1 to 30 s; of the deep route, the failure took 2.5 s
    assert found.latencies_s == {"fast": (15.0, 27.0, 29.0, 30.0), "deep": (10.0, 10.0, 10.0, 10.0)}
    assert (found.num_compared, found.num_disagreed) == (8, 3)
    assert found.agreements == {"0.1": 1, "0.2": 1, "0.5": 1, "0.7": 1, "0.9": 4}
    assert [each.id for each in found.disagreements] == ["resp_31", "resp_32", "resp_35"]
    assert [each.id for each in found.failures] == ["resp_40", "resp_39"]
    assert (found.prompt_tokens, found.completion_tokens) == (4700, 470)
    assert found.hosted_cost == pytest.approx((4700 * 2 + 470 * 10) / 1e6)


def test_percentiles_are_values_that_occurred() -> None:
    assert percentiles([3.0]) == (3.0, 3.0, 3.0, 3.0)
    assert percentiles([float(number) for number in range(1, 101)]) == (50.0, 90.0, 95.0, 99.0)
    assert to_pattern('Is  "A 12" 3.50?') == "is “…” #?"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_is_one_file_that_shows_what_was_said_and_runs_none_of_it(tmp_path: Path) -> None:
    # Given what an attacker may have written, in every place that is shown
    picture = make_picture()
    answers = {"draft": replace(exchange().answers["draft"], text=ATTACK)}
    bad = exchange(
        1, question=ATTACK, final=ATTACK, answers=answers, agreement=0.0, rule=ATTACK, error=ATTACK, language=ATTACK,
        pictures=(picture.sha256,), state=ATTACK,
    )  # fmt: skip
    with LoopStore(tmp_path / "loop") as store:
        store.put(bad, [(look_at(picture), picture)], 9e9)
        store.put_feedback("resp_1", "own_a", Feedback("down", ATTACK))
    # When the report is written
    out = tmp_path / "report.html"
    arguments = ["report", "--loop", tmp_path / "loop", "--out", out, "--price-in", "1", "--price-out", "2"]
    done = CliRunner().invoke(app, [str(each) for each in arguments], env={"LC_ALL": "C"})
    assert done.exit_code == 0, done.output
    page = out.read_text("utf-8")
    # Then its only pictures are inside, and nothing is loaded or run
    tags = _Tags()
    tags.feed(page)
    assert {tag for tag, _ in tags.found}.isdisjoint({"script", "link", "iframe", "object", "base"})
    sources = [attributes["src"] or "" for tag, attributes in tags.found if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all("onerror" not in attributes for _, attributes in tags.found)
    assert re.findall(r'(?:href|src)="(?!data:)', page) == []
    assert "&lt;script&gt;alert(1)" in page


def test_prices_come_in_pairs(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", "--price-in", "1"], env={"LC_ALL": "C"})
    assert done.exit_code == 2
    with pytest.raises(ValueError, match="no questions"):
        measure([exchange(again="resp_2")], {})
    assert "Thumbs" not in to_html(measure(_log()[:5], {}), {})
