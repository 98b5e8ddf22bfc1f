"""What is said to people: one sentence in English and the same in Chinese, never one without the other.

In: both sentences, with places for values in braces. Out: one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence, or part of one, in both languages.

    Attributes:
        en: in English.
        zh: in Chinese.
    """

    en: str
    zh: str

    def fill(self, **values: object) -> Text:
        """Put values into the places that ``str.format`` knows; a value that is a `Text` brings both languages."""
        zh = None
        for name, value in values.items():
            if isinstance(value, Text):
                if zh is None:
                    zh = dict(values)
                zh[name] = value.zh
                values[name] = value.en
        return Text(self.en.format(**values), self.zh.format(**(values if zh is None else zh)))

    def of(self, language: Language) -> str:
        """The sentence in one language."""
        return self.zh if language == "zh" else self.en

    def __add__(self, other: Text) -> Text:
        return Text(self.en + other.en, self.zh + other.zh)

    def join(self, parts: Iterable[Text]) -> Text:
        """All parts in one, with this between them."""
        said = list(parts)
        return Text(self.en.join(part.en for part in said), self.zh.join(part.zh for part in said))

    @classmethod
    def same(cls, text: str) -> Text:
        """What is written alike in both: a name, a number."""
        return cls(text, text)


NOTHING = Text.same("")


class TextError(Exception):
    """Base of errors that people are shown in their own language.

    Args:
        text: what is wrong, and what would work.

    Attributes:
        text: in both languages; as a string, the error is in English.
    """

    def __init__(self, text: Text) -> None:
        super().__init__(text.en)
        self.text = text
