"""Pictures to pixels, and prompt and pictures together to model inputs.

In: decoded Pillow images. Out: float32 arrays as the vision tower was trained on them, resized by Pillow: a
tensor library's bicubic gives other values (0.2 in normalised units).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from engines.owl2.config import MPLUGOwl2Config
from engines.owl2.files import CheckpointError
from engines.owl2.tokenizer import Owl2Tokenizer

AspectRatio = Literal["pad", "resize", "none"]
"""What is done about pictures that are not square: pad them, distort them, or cut their sides off."""

Pixels = npt.NDArray[np.float32]

_MAX_ASPECT = 16


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """The CLIP preprocessing of a checkpoint, after squaring the picture one way or another.

    Attributes:
        size_px: length of the shortest edge after resizing.
        crop_size_px: side of the square cut from the middle.
        mean: per channel, of values in 0 to 1.
        std: likewise.
    """

    size_px: int
    crop_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_folder(cls, folder: Path) -> ImageProcessor:
        """Read ``preprocessor_config.json``.

        Raises:
            CheckpointError: if it is missing, or asks for something other than a bicubic resize, a crop and a
                normalisation.
        """
        file = folder / "preprocessor_config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            size, crop = config["size"], config["crop_size"]
            size_px = size["shortest_edge"] if isinstance(size, dict) else size
            crop_px = crop["height"] if isinstance(crop, dict) else crop
            mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{file} cannot be used: {error!r}") from error
        steps = ("do_resize", "do_center_crop", "do_normalize")
        if not all(config.get(step, True) for step in steps) or config.get("resample", 3) != Image.Resampling.BICUBIC:
            raise CheckpointError(f"{file}: preprocessing must resize (resample 3), crop and normalise")
        if crop_px > size_px:
            raise CheckpointError(f"{file}: crop_size {crop_px} is larger than size {size_px}")
        return cls(size_px, crop_px, mean, std)

    def __call__(self, image: Image.Image, aspect_ratio: AspectRatio = "pad") -> Pixels:
        """Prepare one picture.

        Args:
            image: of any size and mode; converted to RGB.
            aspect_ratio: what to do if it is not square.

        Returns:
            (3, crop_size_px, crop_size_px), float32, normalised.
        """
        image = image.convert("RGB")
        if aspect_ratio == "pad":
            image = self._pad_to_square(image)
        elif aspect_ratio == "resize":
            side = max(image.size)
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        values = np.asarray(self._crop(self._resize_shortest_edge(image))).astype(np.float64) * (1 / 255)
        # Rounded to float32 between the steps, which makes the values equal the reference's to the bit.
        normalised = (values.astype(np.float32) - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def _pad_to_square(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        red, green, blue = (int(value * 255) for value in self.mean)
        square = Image.new("RGB", (side, side), (red, green, blue))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def _resize_shortest_edge(self, image: Image.Image) -> Image.Image:
        # Of a strip, only the middle survives the crop; enlarged whole, 10000x1 px would take gigabytes.
        bound = _MAX_ASPECT * min(image.size)
        width, height = min(image.width, bound), min(image.height, bound)
        if (width, height) != image.size:
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        short, long = min(width, height), max(width, height)
        long_px = int(self.size_px * long / short)
        size = (self.size_px, long_px) if width <= height else (long_px, self.size_px)
        return image.resize(size, Image.Resampling.BICUBIC)

    def _crop(self, image: Image.Image) -> Image.Image:
        left = (image.width - self.crop_size_px) // 2
        top = (image.height - self.crop_size_px) // 2
        return image.crop((left, top, left + self.crop_size_px, top + self.crop_size_px))


def serving_aspect_ratio(config: MPLUGOwl2Config) -> AspectRatio:
    """Decide how pictures are squared by default: as the checkpoint says, else padded.

    Padding is what the model was trained with, and it alone keeps both the whole picture and its proportions. The
    reference's own answer to a config without the key is to cut off the sides, and what they show with them; its
    evaluation scripts distort the picture, as ``aspect_ratio="resize"`` does here.
    """
    if config.image_aspect_ratio is None:
        return "pad"
    known: tuple[AspectRatio, ...] = get_args(AspectRatio)
    return next((each for each in known if each == config.image_aspect_ratio), "none")


class MPLUGOwl2Processor:
    """Prompt and pictures to model inputs, for use beside ``AutoModelForImageTextToText``.

    Args:
        tokenizer: of the checkpoint.
        image_processor: likewise.
        aspect_ratio: how pictures that are not square are treated, unless a call says otherwise.
    """

    def __init__(self, tokenizer: Owl2Tokenizer, image_processor: ImageProcessor, aspect_ratio: AspectRatio) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.aspect_ratio = aspect_ratio

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> MPLUGOwl2Processor:
        """Load from a checkpoint folder; other arguments, which ``AutoProcessor`` passes on, are not needed.

        Raises:
            CheckpointError: if a file is missing, or asks for another preprocessing than this one.
        """
        folder = Path(folder)
        config = MPLUGOwl2Config.from_pretrained(folder)
        return cls(Owl2Tokenizer.from_folder(folder), ImageProcessor.from_folder(folder), serving_aspect_ratio(config))

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Image.Image] = (),
        *,
        aspect_ratio: AspectRatio | None = None,
        padding_side: Literal["left", "right"] = "left",
    ) -> dict[str, torch.Tensor]:
        """Prepare prompts written by hand, with ``<|image|>`` where a picture belongs.

        Args:
            text: one prompt, or a batch of B.
            images: the pictures of all prompts, in the order of their markers.
            aspect_ratio: how they are squared; by default as the processor was told.
            padding_side: where shorter prompts of a batch are padded.

        Returns:
            ``input_ids`` and ``attention_mask`` (B, S), -200 for a picture, and ``pixel_values`` (N, 3, S, S) if there
            are pictures.
        """
        rows = [self.tokenizer.encode_with_images(prompt) for prompt in ([text] if isinstance(text, str) else text)]
        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.tokenizer.unk_token_id)  # the checkpoints' padding token
        attention_mask = torch.zeros_like(input_ids)
        for index, row in enumerate(rows):
            columns = slice(longest - len(row), None) if padding_side == "left" else slice(len(row))
            input_ids[index, columns] = torch.tensor(row, dtype=torch.long)
            attention_mask[index, columns] = 1
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if images:
            inputs["pixel_values"] = self.pixel_values(images, aspect_ratio=aspect_ratio)
        return inputs

    def batch_decode(self, sequences: Iterable[Iterable[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """Turn each row of ids into text; prompts may be part of them, their pictures have no text."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in sequences]

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Turn ids into text; see `Owl2Tokenizer.decode`."""
        return self.tokenizer.decode(map(int, token_ids), skip_special_tokens=skip_special_tokens)

    def pixel_values(self, images: Sequence[Image.Image], *, aspect_ratio: AspectRatio | None = None) -> torch.Tensor:
        """Prepare pictures; (N, 3, S, S), float32."""
        prepared = [self.image_processor(image, aspect_ratio or self.aspect_ratio) for image in images]
        return torch.from_numpy(np.stack(prepared))
