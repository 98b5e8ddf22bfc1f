"""engines.owl2.processor: pictures of any shape become the pixels the vision tower was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.owl2 import MPLUGOwl2Config
from engines.owl2.processor import ImageProcessor, serving_aspect_ratio

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def processor(size: int = 8) -> ImageProcessor:
    return ImageProcessor(size, size, MEAN, STD)


def test_pixels_are_scaled_normalised_and_channels_come_first() -> None:
    pixels = processor()(Image.new("RGB", (8, 8), (255, 0, 51)))

    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, 0, 0], [2.0, -2.0, (0.2 - 0.5) / 0.25], rtol=1e-6)


def test_a_wide_picture_is_padded_distorted_or_cut() -> None:
    wide = Image.new("RGB", (32, 8), (255, 255, 255))
    wide.paste((0, 0, 0), (0, 0, 8, 8))  # the left quarter is black

    padded, distorted, cut = (processor()(wide, way)[0] for way in ("pad", "resize", "none"))

    assert padded[0, 4] == pytest.approx((127 / 255 - 0.5) / 0.25, abs=1e-5)  # padding in the mean colour
    assert padded[4, 7] == pytest.approx(2.0, abs=0.2)
    assert distorted[0, 0] == pytest.approx(-2.0, abs=0.2)
    assert distorted[0, 7] == pytest.approx(2.0, abs=0.2)
    assert cut.min() == pytest.approx(2.0, abs=0.2)  # the black quarter is gone


def test_a_strip_is_shortened_to_its_middle_before_it_is_enlarged() -> None:
    strip = Image.new("RGB", (1, 1001), (255, 255, 255))
    strip.putpixel((0, 500), (0, 0, 0))

    assert processor()._resize_shortest_edge(strip).size == (8, 128)
    assert processor()(strip, "none")[0].min() < -1.0  # the middle is still in the middle


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "pad"), ("pad", "pad"), ("resize", "resize"), ("none", "none"), ("anyres", "none")]
)
def test_the_checkpoint_decides_how_pictures_are_squared_and_padding_is_the_default(
    make_config: Callable[..., MPLUGOwl2Config], value: str | None, expected: str
) -> None:
    assert serving_aspect_ratio(make_config(image_aspect_ratio=value)) == expected


@pytest.mark.parametrize(
    "change", [{"do_resize": False}, {"resample": 2}, {"crop_size": 32, "size": 28}, {"do_normalize": False}]
)
def test_another_preprocessing_than_this_one_is_refused(checkpoint: Path, tmp_path: Path, change: Any) -> None:
    config = json.loads((checkpoint / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | change))

    with pytest.raises(ValueError, match=r"preprocessing|crop_size"):
        ImageProcessor.from_folder(tmp_path)


def test_sizes_may_be_written_as_objects(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "preprocessor_config.json").read_text())
    config |= {"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 28}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))

    assert ImageProcessor.from_folder(tmp_path)(Image.new("L", (3, 90))).shape == (3, 28, 28)
