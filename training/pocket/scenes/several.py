"""Questions over two or four pictures: what one of them has, how many all have, whether two share something.

In: scenes (an `ask_` function) or a wish for them (a builder). Out: a question, or None where there is no such thing to
ask. The helpers at the top (`Query`, `place_all`, `mark`) also serve the other questions about several pictures.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from training.pocket.scenes.asking import Asker, Builder, Scenes, Setup, Wordings, distinct, wording
from training.pocket.scenes.layout import Look, Size, place, random_looks
from training.pocket.scenes.nouns import Lang, Question, Scene, Shape
from training.pocket.scenes.singles import choose_count
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, ORDINALS, plural

_WORDS: Wordings = {
    "picture_color": {
        "en": (
            "What colour is the {k} in the {o} picture?",
            "In the {o} picture, what colour is the {k}?",
            "What is the colour of the {k} in the {o} picture?",
            "Tell me the colour of the {k} in the {o} picture.",
            "What colour do you see for the {k} in the {o} image?",
        ),
    },
    "picture_count": {
        "en": (
            "How many {q} are in the {o} picture?",
            "In the {o} picture, how many {q} are there?",
            "Count the {q} in the {o} picture.",
            "How many {q} do you see in the {o} picture?",
            "Tell me how many {q} are in the {o} picture.",
        ),
    },
    "total": {
        "en": (
            "How many {q} are there in both pictures together?",
            "How many {q} do the two pictures have in total?",
            "Count the {q} in both pictures.",
            "How many {q} do you see in both pictures?",
            "Tell me how many {q} there are in both images.",
            "What is the total number of {q} in both pictures?",
        ),
    },
    "total_many": {
        "en": (
            "How many {q} are there in all pictures together?",
            "How many {q} do the four pictures have in total?",
            "Count the {q} in all four pictures.",
            "How many {q} do you see in all pictures?",
            "Tell me how many {q} there are in all images.",
            "What is the total number of {q} in all pictures?",
        ),
    },
    "same_color": {
        "en": (
            "Is the {k} the same colour in both pictures?",
            "Does the {k} have the same colour in both pictures?",
            "Do both pictures show the {k} in the same colour?",
            "Tell me if the {k} has the same colour in both pictures.",
            "Do you see the {k} in the same colour in both images?",
        ),
    },
    "same_shape": {
        "en": (
            "Is the {c} one the same shape in both pictures?",
            "Does the {c} object have the same shape in both pictures?",
            "Do both pictures show the {c} object in the same shape?",
            "Tell me if the {c} object has the same shape in both pictures.",
            "Do you see the {c} object in the same shape in both images?",
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Query:
    """What is counted: shapes of a colour, of a kind, of both, or all of them."""

    colour: str | None = None
    kind: str | None = None

    def count(self, looks: Sequence[Look]) -> int:
        """How many of the looks are meant."""
        return sum(self.colour in (None, colour) and self.kind in (None, kind) for colour, kind in looks)

    @property
    def phrase(self) -> str:
        """The query as an English plural: "red circles"."""
        noun = plural(self.kind) if self.kind else "shapes"
        return f"{self.colour} {noun}" if self.colour else noun


def looks_of(scene: Scene) -> list[Look]:
    """Colour and kind of every shape."""
    return [shape.look for shape in scene.shapes]


def queries(form: str) -> list[Query]:
    """All queries of a form: "all", "color", "shape" or "color_shape"."""
    if form == "all":
        return [Query()]
    if form == "color":
        return [Query(colour=colour) for colour in COLOUR_NAMES]
    if form == "shape":
        return [Query(kind=kind) for kind in KINDS]
    return [Query(colour, kind) for colour in COLOUR_NAMES for kind in KINDS]


def random_query(rng: random.Random, form: str) -> Query:
    """One query of a form."""
    return rng.choice(queries(form))


def other_looks(rng: random.Random, query: Query, num: int) -> list[Look]:
    """Looks the query does not mean; where it names two things, some have one of them: in some pictures most."""
    half = rng.choice((0.0, 0.4, 0.8, 1.0))
    of_colour = half * rng.choice((0.0, 0.5, 0.5, 1.0))
    colours = [name for name in COLOUR_NAMES if name != query.colour]
    kinds = [name for name in KINDS if name != query.kind]
    palette = rng.sample(colours, rng.randint(1, len(colours)))
    looks: list[Look] = []
    for _ in range(num):
        colour, kind = rng.choice(palette), rng.choice(kinds)
        if query.colour and query.kind:
            choice = rng.random()
            colour = query.colour if choice < of_colour else colour
            kind = query.kind if of_colour <= choice < half else kind
        elif query.kind:
            colour = rng.choice(COLOUR_NAMES)
        elif query.colour:
            kind = rng.choice(KINDS)
        looks.append((colour, kind))
    return looks


def meant_looks(rng: random.Random, query: Query, num: int) -> list[Look]:
    """Looks the query means."""
    return [(query.colour or rng.choice(COLOUR_NAMES), query.kind or rng.choice(KINDS)) for _ in range(num)]


def place_all(
    rng: random.Random, pictures: Sequence[Sequence[Look]], size: Size, levels: Sequence[Sequence[int]] | None = None
) -> Scenes | None:
    """One scene per list of looks, all of one size; None where one of them found no room."""
    scenes: list[Scene] = []
    for index, looks in enumerate(pictures):
        scene = place(rng, looks, size, levels[index] if levels else None)
        if scene is None:
            return None
        scenes.append(scene)
    return tuple(scenes)


def fullest(numbers: Sequence[float]) -> str:
    """The ordinal of the largest number; of the first one where several are largest."""
    return ORDINALS[max(range(len(numbers)), key=lambda index: numbers[index])]


def mark(guess_numbers: Sequence[float], answer: str) -> str:
    """Give "+" where picking the largest number gives the answer, "-" where it does not, "=" where two are equal."""
    ordered = sorted(guess_numbers)
    if ordered[-1] == ordered[-2]:
        return "="
    return "+" if fullest(guess_numbers) == answer else "-"


def ask_picture_color(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The colour of a kind in one of the pictures; mostly the other picture has it in another colour."""
    offers: list[tuple[int, Shape]] = []
    preferred: list[tuple[int, Shape]] = []
    for index, scene in enumerate(scenes):
        counts = Counter(shape.kind for shape in scene.shapes)
        elsewhere = [shape for other in scenes if other is not scene for shape in other.shapes]
        for shape in scene.shapes:
            if counts[shape.kind] == 1 and want in (None, shape.colour):
                offers.append((index, shape))
                twins = [other.colour for other in elsewhere if other.kind == shape.kind]
                if twins and shape.colour not in twins:
                    preferred.append((index, shape))
    if not offers:
        return None
    index, shape = rng.choice(preferred if preferred and rng.random() < 0.8 else offers)
    colours = distinct(other.colour for scene in scenes for other in scene.shapes)
    if len(colours) < 2:
        return None
    text = wording(rng, "picture_color", lang, _WORDS).format(k=shape.kind, o=ORDINALS[index])
    return Question("picture_color", lang, scenes, text, shape.colour, "", shape.colour, colours)


def scene_picture_color(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Two pictures with the same kind in different colours, once in each."""
    kind = rng.choice(KINDS)
    kinds = [name for name in KINDS if name != kind]
    first = want or rng.choice(COLOUR_NAMES)
    colours = rng.sample([name for name in COLOUR_NAMES if name != first], 7)
    pictures: list[list[Look]] = []
    for colour in (first, colours[0]):
        num = setup.num(rng, 2, 5)
        pictures.append([(colour, kind), *((rng.choice(colours), rng.choice(kinds)) for _ in range(num - 1))])
    rng.shuffle(pictures)
    return place_all(rng, pictures, setup.size(rng))


def ask_picture_count(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """How many of something one picture has: 0 to 4, and never as many as the other."""
    by_number: dict[int, list[tuple[Query, int]]] = {}
    pictures = [looks_of(scene) for scene in scenes]
    # One form at a time: absent colours are more than absent kinds, so that "red ones" would mean none.
    for query in queries(rng.choice(("color", "shape"))):
        numbers = [query.count(looks) for looks in pictures]
        if len(set(numbers)) < 2:
            continue
        for index, number in enumerate(numbers):
            if number <= 4 and want in (None, str(number)):
                by_number.setdefault(number, []).append((query, index))
    chosen = choose_count(rng, by_number, want)
    if chosen is None:
        return None
    (query, index), number = chosen
    text = wording(rng, "picture_count", lang, _WORDS).format(q=query.phrase, o=ORDINALS[index])
    numbers = [query.count(looks) for looks in pictures]
    offers = distinct(str(other) for other in numbers)
    guesses = (("the other picture", str(numbers[1 - index])),)
    return Question("picture_count", lang, scenes, text, str(number), "", str(number), offers, guesses)


def scene_picture_count(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """Two pictures with different numbers of something."""
    query = random_query(rng, rng.choice(("color", "shape")))
    number = int(want) if want else rng.randint(0, 4)
    other = rng.choice([count for count in range(5) if count != number])
    return _pictures_with(rng, query, (number, other), setup)


def _pictures_with(rng: random.Random, query: Query, numbers: Sequence[int], setup: Setup) -> Scenes | None:
    """Pictures that have so many of what the query means."""
    pictures = []
    for number in numbers:
        num = setup.num(rng, max(1, number), 6)
        pictures.append(meant_looks(rng, query, number) + other_looks(rng, query, num - number))
    return place_all(rng, pictures, setup.size(rng))


def total_asker(name: str, form: str, low: int, high: int) -> Asker:
    """Asks how many there are over all pictures: `low` to `high`; mostly at least two pictures have some."""

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        by_number: dict[int, list[Query]] = {}
        pictures = [looks_of(scene) for scene in scenes]
        for query in queries(form):
            numbers = [query.count(looks) for looks in pictures]
            number = sum(numbers)
            spread = sum(count > 0 for count in numbers)
            if low <= number <= high and want in (None, str(number)) and (spread > 1 or rng.random() < 0.1):
                by_number.setdefault(number, []).append(query)
        if not by_number:
            return None
        found = sorted(by_number)
        number = rng.choices(found, [2.0**value for value in found])[0]
        query = rng.choice(by_number[number])
        key = "total" if len(scenes) == 2 else "total_many"
        text = wording(rng, key, lang, _WORDS).format(q=query.phrase)
        guesses = [("the first picture alone", str(query.count(pictures[0])))]
        if form != "all":
            guesses.append(("everything", str(sum(len(looks) for looks in pictures))))
        return Question(name, lang, scenes, text, str(number), form, str(number), guesses=tuple(guesses))

    return ask


def total_builder(form: str, num_images: int) -> Builder:
    """Builds pictures that have a wanted number of something between them."""

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        total = int(want) if want else rng.randint(2, 7)
        most = min(6, setup.num_shapes[1])
        numbers = [0] * num_images
        if form == "all":
            numbers = [1] * num_images
        for _ in range(total - sum(numbers)):
            open_ = [index for index, number in enumerate(numbers) if number < most]
            if not open_:
                return None
            numbers[rng.choice(open_)] += 1
        query = random_query(rng, form)
        if form == "all":
            return place_all(rng, [random_looks(rng, number) for number in numbers], setup.size(rng))
        return _pictures_with(rng, query, numbers, setup)

    return build


def same_asker(name: str) -> Asker:
    """Asks whether a kind has the same colour in both pictures ("same_color"), or a colour the same kind."""
    is_colour = name == "same_color"

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        first, second = ([shape.look if is_colour else shape.look[::-1] for shape in scene.shapes] for scene in scenes)
        # Pairs are (what is asked about, what it is named by): (colour, kind) or (kind, colour).
        counts = [Counter(key for _, key in pairs) for pairs in (first, second)]
        offers: dict[str, list[str]] = {}
        for value, key in first:
            if counts[0][key] == counts[1][key] == 1:
                other = next(its_value for its_value, its_key in second if its_key == key)
                answer = "yes" if value == other else "no"
                # A "no" that a glance at the colours gives away teaches little.
                is_hard = answer == "yes" or any(its_value == value for its_value, _ in second)
                if want in (None, answer) and (is_hard or rng.random() < 0.1):
                    offers.setdefault(answer, []).append(key)
        if not offers:
            return None
        answer = rng.choice(sorted(offers))
        if want is None and answer == "no" and rng.random() < 0.4:
            return None
        key = rng.choice(offers[answer])
        text = wording(rng, name, lang, _WORDS).format(k=key, c=key)
        shares = {value for value, _ in first} & {value for value, _ in second}
        guesses = (("the pictures share one", "yes" if shares else "no"),)
        return Question(name, lang, scenes, text, answer, "", answer, ("no", "yes"), guesses)

    return ask


def same_builder(name: str) -> Builder:
    """Builds two pictures with one thing in both, alike or not; either way they share what is asked about."""
    is_colour = name == "same_color"
    values, keys = (COLOUR_NAMES, KINDS) if is_colour else (KINDS, COLOUR_NAMES)

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        key = rng.choice(keys)
        value = rng.choice(values)
        differing = rng.choice([other for other in values if other != value])
        other_keys = [other for other in keys if other != key]
        pictures: list[list[tuple[str, str]]] = []
        for index in range(2):
            its_value = value if index == 0 or want == "yes" else differing
            pairs = [(its_value, key)]
            # The other picture's value goes to something else here, whether the answer is yes or no.
            decoy = differing if index == 0 else value if want == "no" else differing
            pairs.append((decoy, rng.choice(other_keys)))
            pairs += [(rng.choice(values), rng.choice(other_keys)) for _ in range(setup.num(rng, 2, 5) - 2)]
            pictures.append(pairs)
        looks = [[pair if is_colour else pair[::-1] for pair in pairs] for pairs in pictures]
        return place_all(rng, looks, setup.size(rng))

    return build
