"""What people read: README and `docs/`, page by page in both languages, and the parts of a page that can be checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Written in English alone: what only those read who change the code.
ENGLISH_ONLY = (
    "docs/decisions/",
    "docs/architecture.md",
    "docs/contributing.md",
    "CONTRIBUTING",
    "CHANGELOG",
    "SECURITY",
)
_FENCE = re.compile(r"^(?P<indent> *)```(\w+)\n(.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)

Row = list[str]


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and content of every fenced block, comments taken off."""
        return [
            (language, re.sub(r"\s+# .*$", "", code, flags=re.MULTILINE))
            for _, language, code in _FENCE.findall(self.text)
        ]

    @cached_property
    def rows(self) -> list[Row]:
        """The cells of every table row."""
        return [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            for line in self.prose.splitlines()
            if line.startswith("|") and not re.match(r"\| ?--", line)
        ]

    @cached_property
    def num_bullets(self) -> int:
        return len(re.findall(r"^- ", self.prose, re.MULTILINE))

    @cached_property
    def heading_levels(self) -> list[str]:
        return re.findall(r"^(#+) ", self.prose, re.MULTILINE)

    @cached_property
    def names(self) -> set[str]:
        """Everything in code font."""
        return {name.replace(" 或 ", " or ") for name in re.findall(r"`([^`\n]+)`", self.prose)}

    @cached_property
    def glowl_commands(self) -> list[str]:
        """Every `glowl ...` line of the blocks, and of the tables and sentences, without the program's name."""
        lines = [line for _, code in self.blocks for line in code.splitlines()]
        inline = re.findall(r"`(?:[^`]*?bin/)?glowl ([a-z][^`\n]*)`", self.prose)
        return [line.partition("bin/glowl ")[2] for line in lines if "bin/glowl " in line] + inline

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


ENGLISH = [Page(ROOT / name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")] + [
    Page(path) for path in sorted((ROOT / "docs").rglob("*.md")) if not path.name.endswith(".zh.md")
]
PAIRS = [(page, Page(page.path.with_suffix(".zh.md"))) for page in ENGLISH if not str(page).startswith(ENGLISH_ONLY)]
ALL = ENGLISH + [chinese for _, chinese in PAIRS]
