"""Scenes: what is drawn is what is asked, and every answer is the one a reader of the picture would give."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from router.answers.merge import compose_prompt
from training.pocket.scenes import (
    COLOUR_NAMES,
    KINDS,
    REGIONS,
    SIZES,
    TYPES,
    Question,
    Scene,
    Shape,
    ask,
    dense_targets,
    hops,
    is_right,
    make_scene,
    places,
    printed,
    render,
    sample_pack,
    sample_question,
    several,
    singles,
    which,
)
from training.pocket.scenes.compose import PROMPTS
from training.pocket.scenes.drawing import FONT_FILE, font
from training.pocket.scenes.layout import place
from training.pocket.scenes.nouns import Lang
from training.pocket.scenes.words import COLOURS, ORDINALS

ROOT = Path(__file__).resolve().parents[3]
JUDGED_BY_READING = [
    "color_of_shape",
    "shape_of_color",
    "exist",
    "count_all",
    "count_color",
    "count_shape",
    "count_color_shape",
    "largest",
    "smallest",
    "position",
    "relation",
    "comparison",
    "hop_largest_kind",
    "hop_left_of",
    "picture_color",
    "picture_count",
    "total_all",
    "total_color",
    "total_shape",
    "total_many_color",
    "total_many_shape",
    "which_has",
    "which_has_many",
    "which_more_all",
    "which_more_color",
    "which_more_shape",
    "which_more_cs",
    "which_larger",
    "same_color",
    "same_shape",
    "hop_picture_count",
    "hop_picture_color",
]


def languages(name: str) -> list[str]:
    return sorted({lang for langs in TYPES[name].langs.values() for lang in langs})


def picked(shapes: tuple[Shape, ...], phrase: str) -> list[Shape]:
    """Shapes an English phrase means: its colour and its kind, as far as it names them."""
    words = re.findall("[a-z]+", phrase)
    stems = [word[:-2] if word == "crosses" else word.removesuffix("s") if word != "cross" else word for word in words]
    colours = [word for word in words if word in COLOUR_NAMES]
    kinds = [stem for stem in stems if stem in KINDS]
    return [
        shape
        for shape in shapes
        if (not colours or shape.colour == colours[0]) and (not kinds or shape.kind == kinds[0])
    ]


def only(shapes: list[Shape]) -> Shape:
    (shape,) = shapes
    return shape


def read_answer(question: Question) -> str:
    """Answer an English question from its text and the shapes alone, by other means than those that made it."""
    text = question.text.lower().rstrip("?.")
    scenes = question.images
    shapes = scenes[0].shapes
    by_size = "largest" if "largest" in text or "biggest" in text else "smallest"
    extreme = max if by_size == "largest" else min
    name = question.type
    if name == "color_of_shape":
        return only(picked(shapes, text)).colour
    if name == "shape_of_color":
        return only(picked(shapes, text)).kind
    if name == "exist":
        return "yes" if picked(shapes, text) else "no"
    if name.startswith("count"):
        return str(len(picked(shapes, text)))
    if name in ("largest", "smallest"):
        return " ".join(extreme(shapes, key=lambda shape: shape.radius).look)
    if name == "position":
        shape = only(picked(shapes, text))
        if "left" in text:
            return "left" if shape.x < 0.5 else "right"
        return "top" if shape.y < 0.5 else "bottom"
    if name == "relation":
        match = re.search(r"the (\w+ \w+) .*?(left|right|above|below|higher|lower).* the (\w+ \w+)", text)
        assert match is not None
        first, second = only(picked(shapes, match[1])), only(picked(shapes, match[3]))
        is_so = {
            "left": first.x < second.x,
            "right": first.x > second.x,
            "above": first.y < second.y,
            "higher": first.y < second.y,
            "below": first.y > second.y,
            "lower": first.y > second.y,
        }[match[2]]
        return "yes" if is_so else "no"
    if name == "comparison":
        pairs = [f"{colour} {kind}" for colour, kind in product(COLOUR_NAMES, KINDS) if f"{colour} {kind}" in text]
        two = [only(picked(shapes, pair)) for pair in pairs]
        bigger = any(word in text for word in ("larger", "bigger"))
        return " ".join((max if bigger else min)(two, key=lambda shape: shape.radius).look)
    if name == "hop_largest_kind":
        found = extreme(picked(shapes, text.replace("shape is", "")), key=lambda shape: shape.radius)
        return found.colour if "colour" in text else found.kind
    if name == "hop_left_of":
        match = re.search(r"(left of|right of|above|below) the (\w+) (\w+)", text)
        assert match is not None
        start = extreme(picked(shapes, match[3]), key=lambda shape: shape.radius)
        return beside(scenes[0], start, match[1]).colour
    ordinals = [index for index, ordinal in enumerate(ORDINALS) if f"the {ordinal} " in text]
    if name in ("picture_color", "picture_count"):
        found = picked(scenes[ordinals[0]].shapes, text)
        return only(found).colour if name == "picture_color" else str(len(found))
    numbers = [len(picked(scene.shapes, text)) for scene in scenes]
    if name.startswith("total"):
        return str(sum(numbers))
    if name.startswith(("which_has", "which_more")):
        return ORDINALS[numbers.index(max(numbers))]
    if name == "which_larger":
        radii = [only(picked(scene.shapes, text)).radius for scene in scenes]
        return ORDINALS[radii.index(max(radii))]
    if name in ("same_color", "same_shape"):
        first, second = (only(picked(scene.shapes, text)) for scene in scenes)
        alike = first.colour == second.colour if name == "same_color" else first.kind == second.kind
        return "yes" if alike else "no"
    if name == "hop_picture_count":
        match = re.search(r"picture (?:with|that has) the (\w+ \w+)", text)
        assert match is not None
        (scene,) = (scene for scene in scenes if picked(scene.shapes, match[1]))
        return str(len(picked(scene.shapes, text.replace(match[1], ""))))
    assert name == "hop_picture_color"
    match = re.search(r"more (\w+(?: shapes)?)", text)
    assert match is not None
    scene = max(scenes, key=lambda scene: len(picked(scene.shapes, match[1])))
    return only(picked(scene.shapes, text.replace(match[1], ""))).colour


def beside(scene: Scene, start: Shape, direction: str) -> Shape:
    """The nearest shape in a direction whose other coordinate is about the same."""
    along = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}[direction]
    found = []
    for other in scene.shapes:
        dx, dy = other.x - start.x, other.y - start.y
        ahead, aside = along[0] * dx + along[1] * dy, abs(along[1] * dx) + abs(along[0] * dy)
        if ahead > 0.02 and aside < 0.15:
            found.append((ahead, other))
    return min(found, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("name", JUDGED_BY_READING)
def test_the_answer_is_what_the_shapes_say(name: str) -> None:
    # Given many questions of a type
    rng = random.Random(f"answers {name}")
    questions = [sample_question(rng, name, "en") for _ in range(120)]
    # When they are answered from their text and the list of shapes
    wrong = [(question.text, question.answer) for question in questions if read_answer(question) != question.answer]
    # Then every answer agrees
    assert wrong == []


def test_chinese_answers_are_the_english_ones_in_chinese() -> None:
    # Given one scene and a type whose text has few choices
    scene = Scene("shapes", 96, 96, (Shape("circle", "red", 0.2, 0.2, 0.17), Shape("square", "blue", 0.75, 0.75, 0.09)))
    expected = {"largest": "红色圆形", "smallest": "蓝色方形", "count_all": "2"}
    for name, answer in expected.items():
        # When it is asked in Chinese
        question = next(filter(None, (ask(random.Random(seed), (scene,), name, "zh") for seed in range(20))))
        # Then the answer is the Chinese phrase
        assert question.answer == answer


def test_size_is_asked_only_where_sizes_differ_by_a_fifth() -> None:
    # Given two shapes that differ by less than a fifth
    close = Scene("shapes", 96, 96, (Shape("circle", "red", 0.2, 0.2, 0.15), Shape("circle", "blue", 0.7, 0.7, 0.13)))
    # Then nobody is asked which is larger
    for name in ("largest", "smallest", "comparison"):
        assert all(ask(random.Random(seed), (close,), name, "en") is None for seed in range(20))
    # And where size is asked, the runner-up is clearly smaller
    rng = random.Random(3)
    for _ in range(200):
        radii = sorted(shape.radius for shape in sample_question(rng, "largest", "en").images[0].shapes)
        assert radii[-1] >= 1.2 * radii[-2]


def test_a_circle_and_a_triangle_of_the_same_area_are_not_compared() -> None:
    # Given a triangle that reaches farther than a circle but covers no more
    scene = Scene(
        "shapes", 96, 96, (Shape("circle", "red", 0.25, 0.25, 0.1), Shape("triangle", "blue", 0.7, 0.7, 0.125))
    )
    # Then neither is called the larger one
    assert all(ask(random.Random(seed), (scene,), "comparison", "en") is None for seed in range(20))


def test_colour_is_not_asked_of_a_kind_there_are_two_of() -> None:
    # Given two circles and one square
    shapes = (
        Shape("circle", "red", 0.2, 0.2, 0.1),
        Shape("circle", "blue", 0.8, 0.2, 0.1),
        Shape("square", "green", 0.5, 0.8, 0.1),
    )
    scene = Scene("shapes", 96, 96, shapes)
    # When colours are asked for
    questions = [ask(random.Random(seed), (scene,), "color_of_shape", "en") for seed in range(30)]
    # Then it is always the square's
    assert {question.answer for question in questions if question} == {"green"}


def test_most_missing_things_have_their_colour_and_their_shape_elsewhere() -> None:
    # Given questions whose answer is no
    rng = random.Random(5)
    questions = [sample_question(rng, "exist", "en") for _ in range(600)]
    absent = [question for question in questions if question.answer == "no"]
    # Then nearly always both words are in the picture, on different shapes
    hard = [question for question in absent if dict(question.guesses)["both words are visible"] == "yes"]
    assert len(hard) > 0.8 * len(absent)
    assert len(hard) < len(absent)


def test_all_combinations_of_colour_and_kind_are_drawn() -> None:
    # Given many scenes
    rng = random.Random(7)
    seen = {shape.look for _ in range(400) for shape in make_scene(rng).shapes}
    # Then none is held out
    assert seen == set(product(COLOUR_NAMES, KINDS))


def test_regions_are_asked_only_of_shapes_clear_of_their_borders() -> None:
    # Given a shape on the line between two thirds
    scene = Scene("shapes", 96, 96, (Shape("circle", "red", 1 / 3, 0.15, 0.1),))
    # Then nobody is asked where it is
    assert all(ask(random.Random(seed), (scene,), "region", "en") is None for seed in range(20))
    # And a shape in a corner is said to be there
    corner = Scene("shapes", 96, 96, (Shape("circle", "red", 0.85, 0.85, 0.1),))
    question = ask(random.Random(1), (corner,), "region", "en")
    assert question is not None
    assert question.answer == "bottom right"


def test_what_is_at_a_region_is_the_shape_there() -> None:
    # Given questions about regions
    rng = random.Random(11)
    for _ in range(200):
        question = sample_question(rng, "at_region", "en")
        region = max((name for name in REGIONS if name in question.text), key=len)
        row, column = divmod(REGIONS.index(region), 3)
        # When the picture's ninth is looked up
        there = [shape for shape in question.images[0].shapes if int(3 * shape.y) == row and int(3 * shape.x) == column]
        # Then exactly the answer is there
        assert [" ".join(shape.look) for shape in there] == [question.answer]


def test_a_caption_lists_every_shape_in_reading_order() -> None:
    # Given three shapes in two rows
    shapes = (
        Shape("star", "pink", 0.8, 0.8, 0.2),
        Shape("circle", "red", 0.8, 0.15, 0.08),
        Shape("square", "blue", 0.2, 0.2, 0.13),
    )
    scene = Scene("shapes", 96, 96, shapes)
    # When captions are asked for
    english = ask(random.Random(0), (scene,), "caption", "en")
    chinese = ask(random.Random(0), (scene,), "caption", "zh")
    # Then each shape has its size, look and region
    assert english is not None
    assert chinese is not None
    assert english.answer == "top left: medium blue square, top right: small red circle, bottom right: large pink star"
    assert chinese.answer == "左上中蓝色方形，右上小红色圆形，右下大粉色星形"


def test_a_description_counts_whatever_the_order() -> None:
    # Given a description of three shapes
    question = Question("describe", "en", (), "Describe.", "There is a red circle, a blue square and a green star.")
    # Then another order is right, and another shape is not
    assert is_right(question, "There is a green star, a red circle and a blue square.")
    assert is_right(question, "there is a green star, a blue square, and a red circle")
    assert not is_right(question, "There is a green star, a red circle and a red circle.")
    assert not is_right(question, "There is a red circle and a blue square.")


def test_a_reply_is_right_up_to_case_spaces_and_full_stop() -> None:
    question = Question("color_of_shape", "en", (), "What colour is the circle?", "red")
    assert is_right(question, " Red.\n")
    assert not is_right(question, "red circle")
    assert not is_right(question, "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_shows_its_colour_on_every_paper_at_the_smallest_size(kind: str) -> None:
    # Given the smallest shape in the smallest picture, in each colour
    for seed, colour in enumerate(COLOUR_NAMES):
        scene = place(random.Random(seed), [(colour, kind)], (64, 64), [0])
        assert scene is not None
        (shape,) = scene.shapes
        # When it is drawn
        image = render(scene)
        pixel = image.getpixel((round(shape.x * 64), round(shape.y * 64)))
        # Then its middle is nearest to its own colour, and far from the paper
        nearest = min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True)))
        assert nearest == colour
        assert sum(abs(a - b) for a, b in zip(pixel, scene.background, strict=True)) > 60


def test_shapes_never_touch() -> None:
    # Given crowded scenes
    rng = random.Random(13)
    for _ in range(25):
        scene = make_scene(rng, num_shapes=(5, 6), sizes=((64, 64), (160, 96)))
        # When each shape is drawn alone on white
        inks = []
        for shape in scene.shapes:
            alone = Scene("shapes", 4 * scene.width, 4 * scene.height, (shape,), background=(255, 255, 255))
            grey = render(alone).convert("L").point(lambda value: 255 if value < 250 else 0)
            inks.append(grey.get_flattened_data() if hasattr(grey, "get_flattened_data") else grey.getdata())
        # Then no pixel belongs to two of them
        covered = [sum(pixel > 0 for pixel in pixels) for pixels in zip(*inks, strict=True)]
        assert max(covered) == 1


def test_shapes_lie_within_the_picture() -> None:
    # Given scenes of all sizes
    rng = random.Random(17)
    for _ in range(300):
        scene = make_scene(rng)
        short = min(scene.width, scene.height)
        # Then each shape keeps its extent inside
        for shape in scene.shapes:
            assert shape.radius * short * 1.2 <= min(shape.x, 1 - shape.x) * scene.width + 1e-6
            assert shape.radius * short * 1.2 <= min(shape.y, 1 - shape.y) * scene.height + 1e-6


def test_pictures_have_sides_from_64_to_224_pixels_and_several_aspect_ratios() -> None:
    assert {min(size) for size in SIZES} >= {64, 96}
    assert max(max(size) for size in SIZES) == 224
    assert len({width / height for width, height in SIZES}) >= 4
    # And a scene is drawn at its size
    scene = make_scene(random.Random(1), sizes=((96, 64),))
    assert render(scene).size == (96, 64)
    assert render(scene).mode == "RGB"


def test_the_same_scene_is_drawn_alike_and_another_seed_differs() -> None:
    scene = make_scene(random.Random(2))
    again = make_scene(random.Random(2))
    assert scene == again
    assert render(scene).tobytes() == render(again).tobytes()
    assert render(scene).tobytes() != render(make_scene(random.Random(3))).tobytes()


def test_questions_do_not_depend_on_the_hash_seed() -> None:
    # Given two processes whose sets are ordered differently
    program = (
        "import random\n"
        "from training.pocket.scenes import TYPES, sample_question, sample_pack\n"
        "rng = random.Random(1)\n"
        "for name in TYPES:\n"
        "    for _ in range(4):\n"
        "        q = sample_question(rng, name, 'en')\n"
        "        print(q.text, q.answer, q.images)\n"
        "print([q.text for q in sample_pack(rng, {'exist': 1, 'count_color': 1, 'hop_largest_kind': 1}, 'en', 8)[1]])\n"
    )
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        argv = [sys.executable, "-c", program]
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, check=True)
        outputs.add(done.stdout)
    # Then they ask the same
    assert len(outputs) == 1


@pytest.mark.parametrize("name", TYPES)
def test_a_type_asks_about_as_many_pictures_as_it_says(name: str) -> None:
    # Given questions in each language the type has
    info = TYPES[name]
    for lang in languages(name):
        rng = random.Random(19)
        for _ in range(20):
            question = sample_question(rng, name, lang)
            # Then pictures, kind and language are the type's
            assert question.num_images == info.num_images
            assert {scene.kind for scene in question.images} <= {info.scene_kind}
            assert len({(scene.width, scene.height) for scene in question.images}) <= 1
            assert (question.type, question.lang) == (name, lang)
            assert question.answer
            assert "{" not in question.text
            if lang == "en":
                assert re.fullmatch(r"[\n\x20-\x7e]+", question.text)


@pytest.mark.parametrize("num_shapes", [(1, 3), (2, 2), (6, 6)])
def test_every_type_finds_scenes_with_few_or_many_shapes(num_shapes: tuple[int, int]) -> None:
    rng = random.Random(67)
    for name in TYPES:
        # All answer classes come up in so many draws
        for _ in range(25):
            assert sample_question(rng, name, "en", num_shapes=num_shapes, sizes=((64, 64),)).answer


def test_every_trained_type_has_five_wordings_per_language() -> None:
    for module in (singles, places, printed, several, which, hops):
        for key, wordings in module._WORDS.items():
            for lang, choices in wordings.items():
                least = 3 if key.startswith("receipt") else 5
                assert len(set(choices)) == len(choices) >= least, (module.__name__, key, lang)


def test_a_pack_shares_its_pictures_and_repeats_no_question() -> None:
    # Given weights over types of one and two pictures
    weights = {
        "color_of_shape": 1.0,
        "count_all": 1.0,
        "exist": 2.0,
        "which_has": 1.0,
        "total_all": 1.0,
        "caption": 0.0,
    }
    rng = random.Random(23)
    for _ in range(60):
        # When packs are drawn
        scenes, questions = sample_pack(rng, weights, "en", 6)
        # Then all questions are about the pack's pictures, in different words
        assert 1 <= len(questions) <= 6
        assert all(question.images == scenes for question in questions)
        assert len({question.text for question in questions}) == len(questions)
        assert {question.type for question in questions} <= set(weights) - {"caption"}


def test_a_pack_keeps_to_the_number_of_shapes_and_the_sizes() -> None:
    rng = random.Random(29)
    weights = {"color_of_shape": 1.0, "shape_of_color": 1.0}
    for _ in range(60):
        scenes, _ = sample_pack(rng, weights, "en", 4, num_shapes=(2, 3), sizes=((64, 64),))
        assert len(scenes[0].shapes) in (2, 3)
        assert (scenes[0].width, scenes[0].height) == (64, 64)


def test_scenes_of_another_kind_or_number_are_not_asked() -> None:
    scene = make_scene(random.Random(1))
    assert ask(random.Random(1), (scene, scene), "count_all", "en") is None
    assert ask(random.Random(1), (scene,), "price_current", "en") is None
    with pytest.raises(KeyError):
        sample_question(random.Random(1), "no_such_type", "en")


def test_an_impossible_wish_is_an_error_and_no_endless_search() -> None:
    # Given a picture far too small for a poster's print
    with pytest.raises(RuntimeError, match="price_current"):
        sample_question(random.Random(1), "price_current", "zh", sizes=((20, 20),))


@pytest.mark.parametrize("name", ["price_current", "price_original"])
def test_a_price_is_the_one_beside_its_label(name: str) -> None:
    old = ("原价", "平时", "Was", "Old", "Before")
    # Given posters in both languages and all layouts
    for lang in ("zh", "en"):
        rng = random.Random(31)
        for _ in range(150):
            question = sample_question(rng, name, lang)
            lines = [line.text for line in question.images[0].lines]
            # When the label's own line, or the one after it, is read
            labels = [index for index, text in enumerate(lines) if text.startswith(old)]
            assert len(labels) == 1
            priced = [index for index, text in enumerate(lines) if text[-1].isdigit()]
            its_line = next(index for index in priced if index >= labels[0])
            if name == "price_current":
                (its_line,) = (index for index in priced if index != its_line)
            # Then its number is the answer
            assert re.search(r"[\d.]+$", lines[its_line])[0] == question.answer
            assert re.fullmatch(r"\d{1,4}|\d{1,2}\.\d{1,2}", question.answer)


def test_only_an_old_price_is_struck_through() -> None:
    rng = random.Random(37)
    struck = 0
    for _ in range(300):
        scene = make_scene(rng, "poster")
        lines = [line for line in scene.lines if line.is_struck]
        struck += len(lines)
        assert all(line.text.endswith(scene.value("price_original") or "-") for line in lines)
    assert 20 < struck < 150


@pytest.mark.parametrize("kind", ["poster", "chart", "receipt"])
def test_printed_lines_are_legible_and_apart(kind: str) -> None:
    # Given printed pictures of all sizes, and boxes of their characters
    rng = random.Random(41)
    for _ in range(200):
        scene = make_scene(rng, kind)
        lines: list[tuple[float, float, float, float]] = []
        for line in scene.lines:
            glyphs = dense_targets(Scene(kind, scene.width, scene.height, lines=(line,))).glyphs
            x0, x1 = glyphs[0].x0, glyphs[-1].x1
            # Then they lie within the picture, large enough to read
            assert x0 >= -0.02
            assert x1 <= 1.02
            assert -0.05 <= line.y <= 1 - 0.9 * line.size
            assert line.size * scene.height >= 8.5
            lines.append(
                (x0 * scene.width, line.y * scene.height, x1 * scene.width, (line.y + line.size) * scene.height)
            )
        for index, (left, top, right, bottom) in enumerate(lines):
            for other_left, other_top, other_right, other_bottom in lines[:index]:
                # Digits fill about two thirds of a line's height, so boxes may meet by a little.
                slack = 0.2 * min(bottom - top, other_bottom - other_top)
                is_apart_x = left >= other_right - 1 or other_left >= right - 1
                is_apart_y = top >= other_bottom - slack or other_top >= bottom - slack
                assert is_apart_x or is_apart_y


def test_character_boxes_hold_ink_and_the_gaps_between_lines_none() -> None:
    # Given a poster on white
    rng = random.Random(43)
    for _ in range(20):
        scene = make_scene(rng, "poster")
        image = render(scene)
        for glyph in dense_targets(scene).glyphs:
            # When a character's box is cut out
            box = (
                round(glyph.x0 * scene.width),
                round(glyph.y0 * scene.height),
                round(glyph.x1 * scene.width) + 1,
                round(glyph.y1 * scene.height) + 1,
            )
            colours = image.crop(box).getcolors(100_000)
            # Then there is ink in it
            darkest = min(sum(colour) for _, colour in colours)
            assert darkest < sum(scene.background) - 60, glyph


def test_a_chart_shows_its_values() -> None:
    rng = random.Random(47)
    for lang in ("zh", "en"):
        for _ in range(150):
            question = sample_question(rng, "chart_value", lang)
            (scene,) = question.images
            label = re.search(r"[A-E](?![a-z])", question.text)[0]
            (bar,) = (bar for bar in scene.bars if bar.label == label)
            # Given a bar, its height is in proportion to its value
            tallest = max(scene.bars, key=lambda bar: bar.value)
            assert (bar.y1 - bar.y0) / (tallest.y1 - tallest.y0) == pytest.approx(bar.value / tallest.value, rel=0.02)
            assert question.answer == str(bar.value)
            if scene.axis:
                # Then its top lies on the grid line of its value
                assert bar.y0 == pytest.approx(scene.axis[bar.value], abs=1e-6)
            else:
                assert str(bar.value) in {line.text for line in scene.lines}


def test_the_tallest_bar_is_clearly_the_tallest() -> None:
    rng = random.Random(53)
    for _ in range(200):
        question = sample_question(rng, "chart_tallest", "en")
        bars = sorted(question.images[0].bars, key=lambda bar: bar.y1 - bar.y0)
        assert bars[-1].y1 - bars[-1].y0 > 1.1 * (bars[-2].y1 - bars[-2].y0)
        assert question.answer in (bars[-1].label, bars[-1].colour)


def test_receipts_add_up_and_are_held_out_of_training() -> None:
    # Given receipts
    rng = random.Random(59)
    for _ in range(100):
        scene = make_scene(rng, "receipt")
        lines = [line.text for line in scene.lines]
        total, paid = int(scene.value("receipt_total") or 0), int(scene.value("receipt_paid") or 0)
        # Then items, total, paid and change agree
        prices = [int(text) for text in lines[: lines.index("合计")] if text.isdigit()]
        assert sum(prices) == total
        assert lines[lines.index("找零") + 1] == f"¥{paid - total}"
    # And exactly their types are held out
    held_out = {name for name, info in TYPES.items() if info.held_out}
    assert held_out == {name for name, info in TYPES.items() if info.scene_kind == "receipt"} != set()


def test_the_font_has_every_character_that_is_printed() -> None:
    # Given what many printed pictures say
    rng = random.Random(61)
    scenes = [make_scene(rng, kind) for kind in ("poster", "chart", "receipt") for _ in range(200)]
    chars = {char for scene in scenes for line in scene.lines for char in line.text if char != " "}
    letter = font(24)
    missing = bytes(letter.getmask("龘"))
    # Then none is drawn as the box of a missing one
    assert chars
    assert [char for char in sorted(chars) if bytes(letter.getmask(char)) == missing] == []


def test_the_font_is_small_and_carries_its_licence() -> None:
    assert FONT_FILE.stat().st_size < 60_000
    licence = (FONT_FILE.parent / "OFL.txt").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE" in licence
    assert "Adobe" in licence


def test_text_turns_have_honest_answers_without_pictures() -> None:
    answers = Counter(sample_question(random.Random(seed), "ability", "en").answer for seed in range(20))
    assert list(answers) == [
        "I am a very small model. I can answer questions on colours, shapes and numbers in pictures."
    ]
    assert sample_question(random.Random(0), "greeting", "zh").images == ()


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_prompt_to_compose_is_the_one_the_router_sends(lang: Lang) -> None:
    prompt = compose_prompt("Q {x}?", "a draft", "a finding", lang)
    assert PROMPTS[lang].format(question="Q {x}?", draft="a draft", deep="a finding") == prompt


def test_a_question_in_chinese_about_two_hops_is_answered_in_english() -> None:
    rng = random.Random(3)
    for _ in range(40):
        question = sample_question(rng, "hop_in_chinese", "zh")
        assert re.search(r"[\u4e00-\u9fff]", question.text)
        assert not re.search(r"[A-Za-z]", question.text)
        assert question.answer in (*COLOUR_NAMES, *KINDS)
        assert question.answer in question.candidates


def test_the_answer_of_a_colour_beside_a_shape_is_the_nearest_one_in_line() -> None:
    rng = random.Random(4)
    for _ in range(40):
        question = sample_question(rng, "beside", "en")
        words = question.text.rstrip("?").replace(":", "").split()
        (scene,) = question.images
        named = next(s for s in scene.shapes if f"{s.colour} {s.kind}" in question.text)
        sign, axis = {"left": (-1, "x"), "right": (1, "x"), "above": (-1, "y"), "below": (1, "y")}[question.form]
        assert question.form in words
        other = "y" if axis == "x" else "x"
        in_line = [
            s
            for s in scene.shapes
            if s is not named
            and sign * (getattr(s, axis) - getattr(named, axis)) > 0
            and abs(getattr(s, other) - getattr(named, other)) < 0.2
        ]
        nearest = min(in_line, key=lambda s: abs(getattr(s, axis) - getattr(named, axis)))
        assert nearest.colour == question.answer
