"""Writes the pages that follow from the code, in both languages: settings, list of decisions.

In: `Settings.model_fields`, `settings.yaml` beside this file, the headings of `docs/decisions/`. Out: files in `docs/`,
each headed by the command that makes it. `python -m scripts.doc_pages` writes them; `--check` names those that are out
of date and exits with 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from markdown.extensions.toc import slugify

from router.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
Lang = Literal["en", "zh"]


def start(title: str, source: str) -> str:
    """The head of a page: its title, and where to change it."""
    return f"# {title}\n\n<!-- Made by `python -m scripts.doc_pages` from {source}. Change that, not this page. -->\n\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings() -> dict[str, tuple[str | None, str]]:
    """Default and meaning of every setting by its variable; a default of None depends on the machine."""
    found: dict[str, tuple[str | None, str]] = {}
    for name, field in Settings.model_fields.items():
        value = field.get_default(call_default_factory=True)
        shown = None if field.default_factory else str(value).lower() if isinstance(value, bool) else str(value or "")
        variable = str(field.validation_alias or f"GLOWL_{name.upper()}")
        found[variable] = (shown, field.description or "")
    return found


def settings_page(lang: Lang) -> str:
    """Every variable in tables by subject.

    Raises:
        SystemExit: if a setting has no line in `settings.yaml`, or a line there no setting.
    """
    texts: dict[str, Any] = yaml.safe_load((ROOT / "scripts/settings.yaml").read_text("utf-8"))
    known = settings()
    listed = [variable for group in texts["tables"] for variable in group["settings"]]
    if sorted(listed) != sorted(known):
        odd = sorted(set(known) ^ set(listed)) or "a variable that stands twice"
        sys.exit(f"scripts/settings.yaml and router/settings.py differ: {odd}")
    title = {"en": "Settings", "zh": "设置"}[lang]
    page: str = start(title, "router/settings.py and scripts/settings.yaml") + texts["intro"][lang]
    head = {"en": ["variable", "default", "meaning"], "zh": ["变量", "默认值", "含义"]}[lang]
    machine = {"en": "the user's data folder", "zh": "用户数据目录"}[lang]
    for group in texts["tables"]:
        rows = []
        for variable, meaning_zh in group["settings"].items():
            default, meaning = known[variable]
            shown = machine if default is None else f"`{default}`" if default else ""
            rows.append([f"`{variable}`", shown, meaning if lang == "en" else meaning_zh])
        page += f"\n## {group[lang]}\n\n{table(head, rows)}"
    return page


def decisions_page(lang: Lang) -> str:
    """One line per decision, linked, by subject in the order of the site."""
    source = "the headings of docs/decisions/*.md"
    page = start("Decisions", source) + (ROOT / "scripts/decisions.md").read_text("utf-8")
    listed = re.findall(r"- decisions/(?!index)([a-z0-9-]+)\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    for name in listed:
        title, *headings = re.findall(r"^##? (.+)$", (DOCS / f"decisions/{name}.md").read_text("utf-8"), re.MULTILINE)
        lines = [f"- [{heading}]({name}.md#{slugify(without_code(heading), '-')})\n" for heading in headings]
        page += f"\n## [{title}]({name}.md)\n\n{''.join(lines)}"
    return page


def without_code(heading: str) -> str:
    """The words of a heading without the marks of code, as its anchor has them."""
    return heading.replace("`", "")


PAGES: dict[tuple[str, Lang], Callable[[Lang], str]] = {
    ("settings", "en"): settings_page,
    ("settings", "zh"): settings_page,
    ("decisions/index", "en"): decisions_page,
}


def path_of(page: str, lang: Lang) -> Path:
    """Where a page is: the English one without, the Chinese one with `.zh` before `.md`."""
    return DOCS / (f"{page}.md" if lang == "en" else f"{page}.zh.md")


def main() -> None:
    """Write every page, or with `--check` name those that would change."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    only_check = arguments.parse_args().check
    stale = []
    for (page, lang), make in PAGES.items():
        path, text = path_of(page, lang), make(lang)
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not only_check:
                path.write_text(text, "utf-8")
    if stale:
        print("out of date:" if only_check else "written:", *stale)
    sys.exit(bool(stale) and only_check)


if __name__ == "__main__":
    main()
