"""A fixture of package scope ends with its folder only where pytest sees a package; else it lives until the run ends.

A browser that lives on keeps an event loop running in the test process: every later test that wants one fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WITH_PACKAGE_FIXTURES = sorted(p.parent for p in TESTS.rglob("*.py") if 'scope="package")\n' in p.read_text("utf-8"))


@pytest.mark.parametrize("folder", WITH_PACKAGE_FIXTURES, ids=lambda folder: str(folder.relative_to(TESTS)))
def test_a_folder_with_fixtures_of_package_scope_is_a_package(folder: Path) -> None:
    assert (folder / "__init__.py").is_file()


def test_such_folders_are_found() -> None:
    assert TESTS / "browser" in WITH_PACKAGE_FIXTURES
