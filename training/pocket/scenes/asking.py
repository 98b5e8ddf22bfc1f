"""What every kind of question is made with: a setup, a few look-ups, a choice of words.

In: scenes and tables of wordings. Out: small helpers; two function types, `Asker` and `Builder`.

An asker takes scenes and `want`, the answer class to be met (None picks evenly among what the scenes offer), and gives
a question, or None where there is no such thing to ask. A builder makes scenes in which `want` is likely to be found.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.pocket.scenes.layout import SIZES, Size
from training.pocket.scenes.nouns import Lang, Question, Scene, Shape
from training.pocket.scenes.words import look

Scenes = tuple[Scene, ...]
Wordings = Mapping[str, Mapping[Lang, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a scene may be: how many shapes (both ends included), which sizes in pixels, for which language."""

    num_shapes: tuple[int, int] = (1, 6)
    sizes: Sequence[Size] = SIZES
    lang: Lang = "en"

    def num(self, rng: random.Random, low: int = 1, high: int = 6) -> int:
        """A number of shapes between `low` and `high`, within the setup as far as that is possible."""
        low = max(low, min(self.num_shapes[0], high))
        return rng.randint(low, max(low, min(high, self.num_shapes[1])))

    def size(self, rng: random.Random) -> Size:
        """A picture size."""
        return rng.choice(self.sizes)


Asker = Callable[[random.Random, Scenes, Lang, str | None], Question | None]
Builder = Callable[[random.Random, str | None, Setup], Scenes | None]


def one(scene: Scene | None) -> Scenes | None:
    """The scene as the only picture of a question."""
    return None if scene is None else (scene,)


def unique_looks(scene: Scene) -> list[Shape]:
    """Shapes that "the red circle" can only mean one of."""
    counts = Counter(shape.look for shape in scene.shapes)
    return [shape for shape in scene.shapes if counts[shape.look] == 1]


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Each value once, in a fixed order."""
    return tuple(sorted(set(values)))


def wording(rng: random.Random, key: str, lang: Lang, table: Wordings) -> str:
    """One of the ways to ask."""
    return rng.choice(table[key][lang])


def named(shape: Shape, lang: Lang) -> str:
    """What a question or an answer calls the shape."""
    return look(*shape.look, lang)
