"""Words and questions that the pocket models do not know, and the one answer they have for them.

In: ``outside_words.yaml``. Out: tables by language. Every sixth entry of a table is left out of training (`choices`),
so that an evaluation can ask with words that no run ever met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from training.pocket.scenes.nouns import Lang

# Both models give this one answer, to the letter, wherever they do not know the picture, the words or the question.
HONEST: Final[dict[Lang, str]] = {
    "en": "These small models only know drawn shapes, price posters and bar charts.",
    "zh": "这些小模型只会看图形、价格海报和柱状图。",
}

Table = Mapping[Lang, tuple[str, ...]]


def _read() -> dict[str, Table]:
    tables = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
    return {
        name: {
            lang: tuple(entries.split() if isinstance(entries, str) else entries) for lang, entries in by_lang.items()
        }
        for name, by_lang in tables.items()
    }


_TABLES = _read()
NOUNS: Final = _TABLES["nouns"]
COLOURS: Final = _TABLES["colours"]
SHAPES: Final = _TABLES["shapes"]
PLACES: Final = _TABLES["places"]
ABOUT_THINGS: Final = _TABLES["about_things"]
ABOUT_OTHER_SHAPES: Final = _TABLES["about_other_shapes"]
QUESTIONS: Final = _TABLES["questions"]


def choices(table: Sequence[str], *, unseen: bool) -> Sequence[str]:
    """The entries of a table that training uses, or those that it never does."""
    return [entry for index, entry in enumerate(table) if (index % 6 == 4) == unseen]
