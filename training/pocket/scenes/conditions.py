"""Everything around a question that must not change its answer: how it is typed, and how its picture is drawn.

In: questions as `sampling` makes them. Out: the same questions with other words around them, other spelling, other
punctuation; the same scenes turned, hollow, on dark paper, smaller, or with a camera's grain. The answer stays.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from training.pocket.scenes.nouns import Lang, Question, Scene, Shape

# -- how a question is typed ------------------------------------------------------------------------------------------

_BEFORE: dict[Lang, tuple[str, ...]] = {
    "en": ("Hello, ", "Hi, ", "Hello! ", "Hi! ", "Please: ", "Good morning, ", "Hey, ", "Hi there, ", "Question: "),
    "zh": ("你好，", "您好，", "你好！", "请问，", "请问", "你好，请问", "早上好，", "嗨，", "请你看图，"),
}
_AFTER: dict[Lang, tuple[str, ...]] = {
    "en": (" Thanks!", " Thank you.", " Thank you!", " Thanks.", " Please.", " Thanks a lot."),
    "zh": ("谢谢！", "谢谢。", "谢谢你。", "谢谢", "多谢！", "谢谢您！"),
}
_AMERICAN = (("colour", "color"), ("Colour", "Color"), ("grey", "gray"), ("ummarise", "ummarize"))
_HALF_WIDTH = str.maketrans("？！，。：；（）", "?!,.:;()")
_MARKS = "?？.。!！"
# People have several words for one shape or colour in Chinese.
_OTHER_WORDS = (
    ("圆形", ("圆", "圆圈")),
    ("方形", ("正方形", "方块")),
    ("三角形", ("三角",)),
    ("星形", ("星星", "五角星")),
    ("十字形", ("十字",)),
    ("橙色", ("橘色",)),
    ("粉色", ("粉红色",)),
    ("颜色", ("色彩",)),
)


def _american(rng: random.Random, text: str, lang: Lang) -> str:
    for british, american in _AMERICAN:
        text = text.replace(british, american)
    return text


def _half_width(rng: random.Random, text: str, lang: Lang) -> str:
    return text.translate(_HALF_WIDTH)


def _no_mark(rng: random.Random, text: str, lang: Lang) -> str:
    return text.rstrip(_MARKS) or text


def _doubled(rng: random.Random, text: str, lang: Lang) -> str:
    bare = text.rstrip(_MARKS)
    mark = text[len(bare) :][:1] or ("？" if lang == "zh" else "?")
    return bare + rng.choice((mark * 2, mark * 3, mark + "!", mark + "！", mark + " " + mark))


def _spaces(rng: random.Random, text: str, lang: Lang) -> str:
    choice = rng.randrange(6)
    if choice == 0:
        return " " + text
    if choice == 1:
        return text + rng.choice((" ", "  ", "\n"))
    if choice == 2 and len(text) > 1:
        return text[:-1] + " " + text[-1]
    if choice == 3:
        return rng.choice(("  ", "\n")) + text + " "
    if lang == "zh":
        places = [at for at in range(1, len(text)) if "\u3400" <= text[at] <= "\u9fff"]
        at = rng.choice(places) if places else len(text)
        return text[:at] + " " + text[at:]
    words = text.split(" ")
    at = rng.randrange(len(words))
    return " ".join([*words[:at], " " + words[at], *words[at + 1 :]])


def _polite(rng: random.Random, text: str, lang: Lang) -> str:
    share = rng.random()
    if share < 0.75:
        text = rng.choice(_BEFORE[lang]) + (_lower(rng, text, lang) if lang == "en" and rng.random() < 0.5 else text)
    if share > 0.4:
        text += rng.choice(_AFTER[lang])
    return text


def _lower(rng: random.Random, text: str, lang: Lang) -> str:
    return text[0].lower() + text[1:]


def _other_word(rng: random.Random, text: str, lang: Lang) -> str:
    for word, others in _OTHER_WORDS:
        if word in text and rng.random() < 0.7:
            text = text.replace(word, rng.choice(others))
    return text


TYPING: Final[Mapping[str, Callable[[random.Random, str, Lang], str]]] = {
    "american": _american,
    "other_word": _other_word,
    "lower_case": _lower,
    "half_width": _half_width,
    "no_mark": _no_mark,
    "doubled": _doubled,
    "polite": _polite,
    "spaces": _spaces,
}
_ONLY: Mapping[str, Lang] = {"american": "en", "lower_case": "en", "other_word": "zh", "half_width": "zh"}


def typed(rng: random.Random, question: Question, names: tuple[str, ...]) -> Question:
    """The question as people type it.

    Args:
        rng: source of all choices.
        question: its answer stays.
        names: of `TYPING`; those of the other language change nothing.
    """
    if question.type == "compose":  # a program's words
        return question
    text = question.text
    for name in names:
        if _ONLY.get(name, question.lang) == question.lang:
            text = TYPING[name](rng, text, question.lang)
    return replace(question, text=text)


def any_typing(rng: random.Random, lang: Lang) -> tuple[str, ...]:
    """What a training question is put through: mostly one or two things, often nothing."""
    names = [name for name in TYPING if rng.random() < (0.5 if name == "american" else 0.12)]
    if "no_mark" in names and "doubled" in names:
        names.remove("doubled")
    return tuple(names)


# -- how a picture is drawn -------------------------------------------------------------------------------------------

# Turned farther, a square is a diamond and a cross an X.
_TURNS = {"circle": 0.0, "square": math.radians(18), "diamond": math.radians(18), "cross": math.radians(18)}
_SMALLER = 0.7


def _hollow(rng: random.Random, scene: Scene) -> Scene | None:
    return replace(scene, is_hollow=True)


def _dark(rng: random.Random, scene: Scene) -> Scene | None:
    if any(shape.colour == "black" for shape in scene.shapes):
        return None  # it could not be seen
    level = rng.randint(18, 62)
    red, green, blue = (max(0, level + rng.randint(-8, 8)) for _ in range(3))
    return replace(scene, background=(red, green, blue))


def _turned(rng: random.Random, scene: Scene) -> Scene | None:
    def turn(shape: Shape) -> Shape:
        most = _TURNS.get(shape.kind, math.pi)
        return replace(shape, turn=rng.uniform(-most, most))

    return replace(scene, shapes=tuple(map(turn, scene.shapes)))


def _small(rng: random.Random, scene: Scene) -> Scene | None:
    return replace(scene, shapes=tuple(replace(shape, radius=_SMALLER * shape.radius) for shape in scene.shapes))


def _camera(rng: random.Random, scene: Scene) -> Scene | None:
    jpeg = rng.randint(55, 95) if rng.random() < 0.7 else 0
    return replace(scene, grain=rng.randint(1, 5), jpeg=jpeg)


DRAWING: Final[Mapping[str, Callable[[random.Random, Scene], Scene | None]]] = {
    "outline": _hollow,
    "dark": _dark,
    "rotated": _turned,
    "small": _small,
    "camera": _camera,
}
_OF_PRINT = ("camera",)


def drawn(rng: random.Random, scenes: tuple[Scene, ...], names: tuple[str, ...]) -> tuple[Scene, ...] | None:
    """The same scenes in another manner, all alike.

    Args:
        rng: source of all choices.
        scenes: of one question or pack.
        names: of `DRAWING`.

    Returns:
        None where the answer would not stay: black shapes on dark paper.
    """
    for name in names:
        changed = [
            DRAWING[name](rng, scene) if scene.kind == "shapes" or name in _OF_PRINT else scene for scene in scenes
        ]
        found = tuple(scene for scene in changed if scene is not None)
        if len(found) < len(scenes):
            return None
        scenes = found
    return scenes


_SHARES = {"outline": 0.2, "dark": 0.3, "rotated": 0.3, "small": 0.15, "camera": 0.15}


def any_drawing(rng: random.Random) -> tuple[str, ...]:
    """What a training picture is put through: every other one as it was."""
    if rng.random() < 0.35:
        return ()
    return tuple(name for name, share in _SHARES.items() if rng.random() < share)
