"""The question types: which model is asked what, how well it has to do, and the code behind each type.

In: nothing. Out: `TYPES`, what is known of each type, and `QUESTIONS`, how it is asked and how its scenes are made.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from training.pocket.scenes import compose, hops, outside, places, printed, several, singles, turns, which
from training.pocket.scenes.asking import Asker, Builder, Scenes, Setup
from training.pocket.scenes.nouns import Lang, SceneKind, TypeInfo
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, ORDINALS, REGIONS

GLM: tuple[Lang, ...] = ("zh", "en")
OWL2: tuple[Lang, ...] = ("en",)


@dataclass(frozen=True, slots=True)
class QuestionType:
    """A question type with its code.

    Args:
        info: what is known of it.
        ask: asks it about given scenes.
        build: makes scenes for it.
        classes: answer classes to be met equally often; empty where the scenes are even by themselves.
    """

    info: TypeInfo
    ask: Asker
    build: Builder
    classes: tuple[str, ...] = ()


def _no_scene(rng: random.Random, want: str | None, setup: Setup) -> Scenes:
    return ()


QUESTIONS: dict[str, QuestionType] = {}


def _add(
    name: str,
    ask: Asker,
    build: Builder,
    *,
    classes: tuple[str, ...] = (),
    engines: tuple[str, ...] = ("glm", "owl2"),
    num_images: int = 1,
    scene_kind: SceneKind | None = "shapes",
    bars: Mapping[str, float] | float | None = None,
    is_must: bool = False,
    chance: str,
    held_out: bool = False,
    is_long: bool = False,
    is_honest: bool = False,
    langs: tuple[Lang, ...] | None = None,
) -> None:
    by_engine = {engine: langs or (GLM if engine == "glm" else OWL2) for engine in engines}
    per_engine = dict.fromkeys(engines, bars) if isinstance(bars, float) else dict(bars or {})
    info = TypeInfo(
        name,
        engines,
        MappingProxyType(by_engine),
        num_images,
        scene_kind,
        MappingProxyType(per_engine),
        is_must,
        chance,
        held_out,
        is_long,
        is_honest,
    )
    QUESTIONS[name] = QuestionType(info, ask, build, classes)


_ONE = {"glm": 0.95, "owl2": 0.93}
_GLM_ONLY = ("glm",)  # print: the real Owl2 reads badly too
_OWL2_ONLY = ("owl2",)
_add(
    "color_of_shape",
    singles.ask_color_of_shape,
    singles.scene_color_of_shape,
    classes=COLOUR_NAMES,
    bars=_ONE,
    is_must=True,
    chance="one of the visible colours (4 to 6)",
)
_add(
    "shape_of_color",
    singles.ask_shape_of_color,
    singles.scene_shape_of_color,
    classes=KINDS,
    bars=_ONE,
    is_must=True,
    chance="one of the visible kinds (4 to 6)",
)
_add(
    "exist",
    singles.ask_exist,
    singles.scene_exist,
    classes=("yes", "no"),
    bars=_ONE,
    is_must=True,
    chance="yes or no",
)
_add(
    "count_all",
    singles.ask_count_all,
    singles.scene_count_all,
    classes=("1", "2", "3", "4", "5", "6"),
    bars=_ONE,
    is_must=True,
    chance="1 to 6",
)
_add(
    "count_color",
    singles.ask_count_color,
    singles.count_scene(True, False),
    classes=("0", "1", "2", "3", "4", "5"),
    bars=_ONE,
    is_must=True,
    chance="0 to 5",
)
_add(
    "count_shape",
    singles.ask_count_shape,
    singles.count_scene(False, True),
    classes=("0", "1", "2", "3", "4", "5"),
    bars=_ONE,
    is_must=True,
    chance="0 to 5",
)
_add(
    "count_color_shape",
    singles.ask_count_color_shape,
    singles.count_scene(True, True),
    classes=("0", "1", "2", "3", "4"),
    bars=_ONE,
    is_must=True,
    chance="0 to 4",
)
for _name in ("largest", "smallest"):
    _add(
        _name,
        places.extreme_asker(_name),
        places.extreme_scene(_name),
        classes=KINDS,
        bars=_ONE,
        is_must=True,
        chance="one of the visible shapes (3 to 6)",
    )
_add(
    "position",
    places.ask_position,
    places.scene_position,
    classes=("left", "right", "top", "bottom"),
    bars=0.9,
    is_must=True,
    chance="one of two halves",
)
_add(
    "region",
    places.ask_region,
    places.scene_region,
    classes=REGIONS,
    bars=0.9,
    is_must=True,
    chance="one of nine regions",
)
_add(
    "at_region",
    places.ask_at_region,
    places.scene_at_region,
    classes=REGIONS,
    bars=0.9,
    chance="one of the visible shapes (3 to 6)",
)
_add(
    "relation",
    places.ask_relation,
    places.scene_relation,
    classes=("yes", "no"),
    bars=0.9,
    chance="yes or no",
)
_add(
    "comparison",
    places.ask_comparison,
    places.scene_comparison,
    classes=("A", "B"),
    bars=0.9,
    chance="one of the two named",
)
_add("caption", singles.ask_caption, singles.scene_any, chance="not judged")
_add("describe", singles.ask_describe, singles.scene_describe, bars=0.8, chance="none")
_add("greeting", turns.ask_greeting, _no_scene, num_images=0, scene_kind=None, bars=0.95, chance="one answer per type")
_add("ability", turns.ask_ability, _no_scene, num_images=0, scene_kind=None, bars=0.95, chance="one answer per type")
for _name in ("price_current", "price_original"):
    _add(
        _name,
        printed.price_asker(_name),
        printed.poster_scene(2),
        classes=("low", "high"),
        engines=_GLM_ONLY,
        scene_kind="poster",
        bars=0.9,
        is_must=True,
        chance="one of the two printed prices",
    )
_add(
    "price_single",
    printed.price_asker("price_single"),
    printed.poster_scene(1),
    engines=_GLM_ONLY,
    scene_kind="poster",
    chance="the only printed price: reading practice, not judged",
)
_add(
    "chart_tallest",
    printed.ask_chart_tallest,
    printed.scene_chart,
    classes=("A", "B", "C", "D", "E"),
    engines=_GLM_ONLY,
    scene_kind="chart",
    bars=0.9,
    chance="one of 3 to 5 bars",
)
_add(
    "chart_value",
    printed.ask_chart_value,
    printed.scene_chart,
    engines=_GLM_ONLY,
    scene_kind="chart",
    bars=0.9,
    chance="one of 3 to 5 values",
)
for _name in ("receipt_total", "receipt_paid", "receipt_shop"):
    _add(
        _name,
        printed.receipt_asker(_name),
        printed.scene_receipt,
        scene_kind="receipt",
        bars=0.9,
        chance="one of the printed numbers, or of the shops",
        held_out=True,
    )
_NUMBERS = tuple(str(number) for number in range(10))
_SIGNED = ("first+", "first-", "second+", "second-")
_add(
    "hop_largest_kind",
    hops.ask_hop_largest_kind,
    hops.scene_hop_largest_kind,
    classes=("+", "-"),
    engines=_OWL2_ONLY,
    bars=0.75,
    is_must=True,
    chance="one of the 2 to 4 shapes of the kind or colour",
)
_add(
    "beside",
    hops.ask_beside,
    hops.scene_hop_left_of,
    classes=("left", "right", "above", "below"),
    engines=_OWL2_ONLY,
    bars=0.9,
    chance="one of the visible colours (4 or 6)",
)
_add(
    "hop_left_of",
    hops.ask_hop_left_of,
    hops.scene_hop_left_of,
    classes=("left", "right", "above", "below"),
    engines=_OWL2_ONLY,
    bars=0.75,
    is_must=True,
    chance="one of the visible colours (4 or 6)",
)
_add(
    "hop_in_chinese",
    hops.ask_hop_in_chinese,
    hops.scene_hop_in_chinese,
    engines=_OWL2_ONLY,
    bars=0.75,
    chance="one of the visible colours or kinds",
    is_long=True,
    langs=("zh",),
)
_add(
    "compose",
    compose.ask_compose,
    hops.scene_hop_in_chinese,
    engines=_GLM_ONLY,
    bars=0.9,
    chance="none: the finding stands in the prompt, in another language",
    is_long=True,
)
_add(
    "picture_color",
    several.ask_picture_color,
    several.scene_picture_color,
    classes=COLOUR_NAMES,
    engines=_OWL2_ONLY,
    num_images=2,
    bars=0.88,
    chance="one of the visible colours",
)
_add(
    "picture_count",
    several.ask_picture_count,
    several.scene_picture_count,
    classes=_NUMBERS[:5],
    engines=_OWL2_ONLY,
    num_images=2,
    bars=0.88,
    chance="the number in one of the two pictures",
)
for _form, _low, _high in (("all", 2, 9), ("color", 1, 7), ("shape", 1, 7)):
    _add(
        f"total_{_form}",
        several.total_asker(f"total_{_form}", _form, _low, _high),
        several.total_builder(_form, 2),
        classes=_NUMBERS[_low : _high + 1],
        engines=_OWL2_ONLY,
        num_images=2,
        bars=0.88,
        is_must=True,
        chance=f"{_low} to {_high}",
    )
_add(
    "which_has",
    which.which_has_asker("which_has"),
    which.which_has_builder(2),
    classes=_SIGNED,
    engines=_OWL2_ONLY,
    num_images=2,
    bars=0.88,
    is_must=True,
    chance="one of two pictures",
)
for _name, _form in (
    ("which_more_all", "all"),
    ("which_more_color", "color"),
    ("which_more_shape", "shape"),
    ("which_more_cs", "color_shape"),
):
    _add(
        _name,
        which.which_more_asker(_name, _form),
        which.which_more_builder(_form),
        classes=which.which_more_classes(_form),
        engines=_OWL2_ONLY,
        num_images=2,
        bars=0.92 if _form != "all" else 0.88,
        is_must=_form == "all",
        chance="one of two pictures",
    )
for _name in ("same_color", "same_shape"):
    _add(
        _name,
        several.same_asker(_name),
        several.same_builder(_name),
        classes=("yes", "no"),
        engines=_OWL2_ONLY,
        num_images=2,
        bars=0.92,
        chance="yes or no",
    )
_add(
    "which_larger",
    which.ask_which_larger,
    which.scene_which_larger,
    classes=which.WHICH_LARGER_CLASSES,
    engines=_OWL2_ONLY,
    num_images=2,
    bars=0.92,
    chance="one of two pictures",
)
_add(
    "hop_picture_count",
    hops.ask_hop_picture_count,
    hops.scene_hop_picture_count,
    classes=_NUMBERS[:5],
    engines=_OWL2_ONLY,
    num_images=2,
    bars=0.75,
    is_must=True,
    chance="the number in one of the two pictures",
)
_add(
    "hop_picture_color",
    hops.ask_hop_picture_color,
    hops.scene_hop_picture_color,
    classes=_SIGNED,
    engines=_OWL2_ONLY,
    num_images=2,
    bars=0.75,
    is_must=True,
    chance="the colour in one of the two pictures",
)
_add(
    "which_has_many",
    which.which_has_asker("which_has_many"),
    which.which_has_builder(4),
    classes=ORDINALS,
    engines=_OWL2_ONLY,
    num_images=4,
    bars=0.85,
    chance="one of four pictures",
)
for _form in ("color", "shape"):
    _add(
        f"total_many_{_form}",
        several.total_asker(f"total_many_{_form}", _form, 2, 8),
        several.total_builder(_form, 4),
        classes=_NUMBERS[2:9],
        engines=_OWL2_ONLY,
        num_images=4,
        bars=0.85,
        chance="2 to 8",
    )


def _most_chars(langs: tuple[Lang, ...] | None) -> int:
    """Owl2 reads Chinese byte by byte, and its answer is 60 of them."""
    return 16 if langs else 200


# What the models do not know. Bars are those of 200 inputs that others make up.
_SHAPE_PICTURE, _UNKNOWN_PICTURE = singles.scene_any, outside.scene_outside
for _name, _topics, _scene_kind, _build, _engines, _langs in (
    ("outside_words", ("printed", "several"), "shapes", _SHAPE_PICTURE, ("glm", "owl2"), None),
    ("outside_words_poster", ("shapes",), "poster", printed.poster_scene(2), _GLM_ONLY, None),
    ("outside_words_chart", ("shapes",), "chart", printed.scene_chart, _GLM_ONLY, None),
    ("outside_words_chinese", ("one step", "printed"), "shapes", _SHAPE_PICTURE, _OWL2_ONLY, ("zh",)),
):
    _add(
        _name,
        outside.words_asker(_name, _topics, _most_chars(_langs)),
        _build,
        engines=_engines,
        scene_kind=_scene_kind,
        bars=0.95,
        is_must=True,
        chance="one answer per type",
        is_long=_langs is not None,
        is_honest=True,
        langs=_langs,
    )
for _name, _topics, _build, _engines, _langs in (
    ("outside_picture", ("shapes", "shapes", "printed"), _UNKNOWN_PICTURE, ("glm", "owl2"), None),
    ("outside_print", ("printed", "shapes"), outside.print_as_outside(), _OWL2_ONLY, None),
    ("outside_picture_chinese", ("shapes",), _UNKNOWN_PICTURE, _OWL2_ONLY, ("zh",)),
):
    _add(
        _name,
        outside.picture_asker(_name, _topics, _most_chars(_langs)),
        _build,
        engines=_engines,
        scene_kind="outside",
        bars=0.95,
        is_must=True,
        chance="one answer per type",
        is_long=_langs is not None,
        is_honest=True,
        langs=_langs,
    )
_add(
    "outside_two",
    outside.picture_asker("outside_two", ("several",)),
    outside.scenes_outside,
    engines=_OWL2_ONLY,
    num_images=2,
    scene_kind="outside",
    bars=0.95,
    is_must=True,
    chance="one answer per type",
    is_honest=True,
)
_add(
    "outside_words_two",
    outside.words_asker("outside_words_two", ("printed",)),
    several.scene_picture_color,
    engines=_OWL2_ONLY,
    num_images=2,
    bars=0.95,
    is_must=True,
    chance="one answer per type",
    is_honest=True,
)
_add(
    "outside_text",
    outside.ask_outside_text,
    _no_scene,
    num_images=0,
    scene_kind=None,
    bars=0.95,
    is_must=True,
    chance="one answer per type",
    is_honest=True,
)

TYPES: Mapping[str, TypeInfo] = MappingProxyType({name: question.info for name, question in QUESTIONS.items()})
