"""Names of colours, shapes, places and pictures in Chinese and English, and the grammar around them.

In: plain names such as "red". Out: words of a question or an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from training.pocket.scenes.nouns import RGB, Lang

COLOURS: dict[str, RGB] = {
    "red": (222, 36, 36),
    "orange": (246, 140, 20),
    "yellow": (240, 214, 30),
    "green": (36, 156, 60),
    "blue": (36, 84, 222),
    "purple": (136, 46, 170),
    "pink": (250, 150, 196),
    "black": (28, 28, 30),
}
COLOUR_NAMES = tuple(COLOURS)
KINDS = ("circle", "square", "triangle", "star", "diamond", "cross")

_ZH = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "black": "黑色",
    "circle": "圆形",
    "square": "方形",
    "triangle": "三角形",
    "star": "星形",
    "diamond": "菱形",
    "cross": "十字形",
    "top left": "左上",
    "top": "上边",
    "top right": "右上",
    "left": "左边",
    "center": "中间",
    "right": "右边",
    "bottom left": "左下",
    "bottom": "下边",
    "bottom right": "右下",
    "largest": "最大",
    "smallest": "最小",
    "small": "小",
    "medium": "中",
    "large": "大",
    "yes": "是",
    "no": "否",
    "above": "上边",
    "below": "下边",
}
# Row by row, as one reads; the index is 3 * row + column.
REGIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
ORDINALS = ("first", "second", "third", "fourth")


def say(name: str, lang: Lang) -> str:
    """The word for a plain English name in `lang`; numbers and unknown words stay as they are."""
    return _ZH.get(name, name) if lang == "zh" else name


def look(colour: str, kind: str, lang: Lang) -> str:
    """A shape by its colour and kind: "red circle" or "红色圆形"."""
    return _ZH[colour] + _ZH[kind] if lang == "zh" else f"{colour} {kind}"


def plural(kind: str) -> str:
    """English plural of a shape's kind."""
    return kind + ("es" if kind.endswith("s") else "s")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def listing(phrases: Sequence[str], lang: Lang) -> str:
    """Phrases joined as a sentence would: "a, b and c"."""
    if len(phrases) == 1:
        return phrases[0]
    comma, last = ("、", "和") if lang == "zh" else (", ", " and ")
    return comma.join(phrases[:-1]) + last + phrases[-1]
