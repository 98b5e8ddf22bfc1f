"""mPLUG-Owl2 as a student: prompts and pictures through the serving engine's own code, the same ids to the token.

In: messages and an answer. Out: `Encoded` rows; what a forward is called with. The template is the one of serving;
`engines.owl2.training` has the reference's own, for the golden curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engines.base import EngineOptions, GenerationRequest, ImagePart, Message, SamplingParams, TextPart
from engines.finetune.encoding import Encoded
from engines.finetune.features import FeatureCache
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.owl2.engine import Owl2Engine
from engines.owl2.prompts import render
from engines.owl2.training import lora_target_modules
from engines.revision import revision_of


class Owl2Student:
    """See `engines.finetune.encoding.Student`.

    Args:
        options: how the base is loaded; no adapters.
    """

    def __init__(self, options: EngineOptions) -> None:
        loaded = Owl2Engine(options).load()
        self.model: Any = loaded.model
        self._preparation = loaded.preparation
        self.revision = revision_of([("", options.model)], f"owl2 features/{self.model.dtype}")

    def encode(self, messages: Sequence[Message], answer: str, features: FeatureCache) -> Encoded:
        """Turn an example into rows.

        Raises:
            ValueError: if the tokenizer reads the question otherwise with the answer behind it.
        """
        request = GenerationRequest(tuple(messages), SamplingParams(max_tokens=1))
        prompt = self._preparation.plan(request).ids
        closed = render((*messages, Message("assistant", (TextPart(answer.strip()),))))
        whole = self._preparation.processor.tokenizer.encode_prompt(closed)
        if whole[: len(prompt)] != prompt:
            raise ValueError("the question's tokens change with the answer behind them")
        for image in request.images:
            self._features(image, features)
        ids: list[int] = []
        is_image: list[bool] = []
        num_rows = self._preparation.num_image_rows
        num_prompt = len(prompt) + prompt.count(IMAGE_TOKEN_ID) * (num_rows - 1)
        for token_id in whole:
            is_picture = token_id == IMAGE_TOKEN_ID
            ids += [0] * num_rows if is_picture else [token_id]
            is_image += [is_picture] * (num_rows if is_picture else 1)
        return Encoded(tuple(ids), tuple(is_image), num_prompt, tuple(image.sha256 for image in request.images))

    def lora_modules(self) -> list[str]:
        """What the reference's LoRA adapts, both modalities' keys and values among it."""
        return lora_target_modules(self.model)

    def inputs(self, embeddings: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Embedded rows, a mask, and which rows are a picture's."""
        return {
            "inputs_embeds": embeddings,
            "attention_mask": batch["attention_mask"],
            "modality_indicators": batch["is_image"].long() if "features" in batch else None,
        }

    def _features(self, image: ImagePart, features: FeatureCache) -> None:
        @torch.no_grad()
        def make() -> dict[str, Tensor]:
            pixels = self._preparation.to_pixels(image).to(self.model.device, self.model.dtype)
            return {"features": self.model.model.encode_images(pixels)[0]}

        features.get_or_make(image.sha256, make)
