"""Measured numbers can be traced: each table names its command, revision and date, and README links to the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAIRS, ROOT, Page

TABLES = sorted((ROOT / "benchmarks/results").glob("*.md"))


@pytest.mark.parametrize("path", TABLES, ids=[path.name for path in TABLES])
def test_a_table_says_what_made_it_and_when(path: Path) -> None:
    head = "\n".join(path.read_text("utf-8").splitlines()[:14])
    assert re.search(r"`(python|make|glowl) [^`]+`", head), "the command"
    assert re.search(r"revision `?[0-9a-f]{7}\b", head), "the revision"
    assert re.search(r"20\d\d-\d\d-\d\d", head), "the date"


@pytest.mark.parametrize("page", list(PAIRS[0]), ids=str)
def test_every_number_of_the_readme_links_to_its_table(page: Page) -> None:
    measured = [row for row in page.rows if re.search(r"\d (%|ms)|kill -9", " ".join(row))]
    assert len(measured) == 4
    assert [row for row in measured if "](benchmarks/results/" not in row[-1]] == []
