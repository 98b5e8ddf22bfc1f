"""GLM as a student: prompts and pictures through the serving engine's own code, so that ids are equal to the token.

In: messages and an answer. Out: `Encoded` rows; what a forward is called with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engines.base import EngineOptions, GenerationRequest, ImagePart, Message, SamplingParams
from engines.finetune.encoding import Encoded
from engines.finetune.features import FeatureCache
from engines.glm.engine import PIXEL_BUDGET, GlmEngine
from engines.revision import revision_of

_DECODER = "language_model"
_STOP = "<|user|>"  # what the model was taught to end an answer with


class GlmStudent:
    """See `engines.finetune.encoding.Student`.

    Args:
        options: how the base is loaded; no adapters.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._engine = GlmEngine(options)
        self.model: Any = self._engine.load()
        self.revision = revision_of([("", options.model)], f"glm features/{self.model.dtype}/{PIXEL_BUDGET}")

    def encode(self, messages: Sequence[Message], answer: str, features: FeatureCache) -> Encoded:
        """Turn an example into rows; a control token typed in an answer is text, as in a question."""
        request = GenerationRequest(tuple(messages), SamplingParams(max_tokens=1))
        prompt = self._engine.plan(request).input_ids
        tokenizer = self._engine.processor.tokenizer
        said = tokenizer.encode(answer.strip(), add_special_tokens=False, split_special_tokens=True)
        ids = [*prompt, *said, tokenizer.convert_tokens_to_ids(_STOP)]
        grids = [self._features(image, features)["grid"] for image in request.images]
        rows = torch.tensor([ids])
        is_image = rows == self._engine.processor.image_token_id
        is_image[:, len(prompt) :] = False
        grid = torch.cat(grids) if grids else None
        positions, _ = self.model.model.get_rope_index(rows, is_image.int(), image_grid_thw=grid)
        pictures = tuple(image.sha256 for image in request.images)
        return Encoded(tuple(ids), tuple(is_image[0].tolist()), len(prompt), pictures, positions[:, 0])

    def lora_modules(self) -> list[str]:
        """All matrices of the decoder."""
        modules = self.model.named_modules()
        return sorted(name for name, each in modules if isinstance(each, nn.Linear) and _DECODER in name)

    def inputs(self, embeddings: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Embedded rows, a mask and three kinds of positions."""
        return {
            "inputs_embeds": embeddings,
            "attention_mask": batch["attention_mask"],
            "position_ids": batch["position_ids"].transpose(0, 1),
        }

    def _features(self, image: ImagePart, features: FeatureCache) -> dict[str, Tensor]:
        @torch.no_grad()
        def make() -> dict[str, Tensor]:
            pixels = self._engine.patchify(image)
            device = self.model.device
            output = self.model.get_image_features(
                pixels.pixel_values.to(device), pixels.grid_thw.to(device), return_dict=True
            )
            return {"features": output.pooler_output[0], "grid": pixels.grid_thw}

        return features.get_or_make(image.sha256, make)
