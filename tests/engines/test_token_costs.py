"""How many tokens a picture takes, counted without the engine that takes them."""

from __future__ import annotations

from itertools import product

import orjson
import pytest

from engines.base import EngineInfo
from engines.glm.engine import MAX_SIDE_PX, PIXEL_BUDGET, _image_size
from engines.glm.processor import load_processor
from engines.http.models import from_models, to_models
from engines.image_header import fit_size
from engines.token_costs import PUBLISHED, TokenCosts
from training.pocket.evaluate import DEFAULT_MODELS

SIDES = (1, 7, 13, 27, 28, 29, 41, 42, 57, 98, 112, 113, 336, 448, 640, 999, 1000, 1001, 1302, 2048, 3024, 4032, 16384)
# Bounds of the published checkpoint, under the engine's own budget and without one; and of the pocket checkpoint.
BOUNDS = [
    (28, _image_size(PIXEL_BUDGET, {"shortest_edge": 12_544, "longest_edge": 9_633_792})),
    (28, {"shortest_edge": 12_544, "longest_edge": 9_633_792}),
    (16, {"shortest_edge": 18_050, "longest_edge": 19_208}),
]


@pytest.mark.parametrize(("cell_px", "size"), BOUNDS)
def test_a_picture_takes_as_many_tokens_as_the_model_s_own_processor_makes_of_it(
    cell_px: int, size: dict[str, int]
) -> None:
    processor = load_processor(str(DEFAULT_MODELS / "glm"))
    processor.image_processor.patch_size = cell_px // processor.image_processor.merge_size
    costs = TokenCosts(cell_px=cell_px, **size, max_side_px=MAX_SIDE_PX)

    for width, height in product(SIDES, SIDES):
        if max(width, height) <= 200 * min(width, height):
            seen = fit_size(width, height, MAX_SIDE_PX)
            assert costs.of_picture(width, height) == processor.num_image_tokens(*seen, size), (width, height)
            assert costs.of_picture(width, height) == costs.of_picture(height, width)


def test_the_published_numbers_are_those_of_the_papers() -> None:
    assert PUBLISHED["glm"].of_picture(1, 1) == 9
    assert PUBLISHED["glm"].of_picture(16_000, 16_000) == 6084  # 6144 at most, and whole rows
    assert PUBLISHED["owl2"].of_picture(16_000, 16_000) == 65


@pytest.mark.parametrize("said", [{"max_tokens": "x"}, {"cell_px": 0}, {"tokens_per_picture": -1}, [], None])
def test_costs_that_are_not_understood_are_not_known(said: object) -> None:
    body = (
        b'{"data": [{"id": "m", "glowl": {"engine": "glm", "variant": "full", "context_tokens": 9, "max_images": 1}}]}'
    )
    models = orjson.loads(body)
    models["data"][0]["glowl"]["costs"] = said
    assert from_models(orjson.dumps(models)).costs is None


def test_a_later_engine_may_say_more() -> None:
    info = EngineInfo("glm", "m", "full", 9, 1, costs=TokenCosts(cell_px=14))
    models = orjson.loads(to_models(info, 0))
    models["data"][0]["glowl"]["costs"]["colours"] = 3
    assert from_models(orjson.dumps(models)) == info
