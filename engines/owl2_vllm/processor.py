"""Prompts and pictures as vLLM takes them: ids and pixels are made by `engines.owl2`, nothing is made anew here.

In: a `PreparedRequest` of ours; or, from vLLM itself, ids with pictures beside them (its measuring at the start, and
whoever calls its own ``LLM`` class). Out: vLLM's ``EngineInput``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from vllm.inputs import MultiModalInput, TokensInput, mm_input, tokens_input
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import BaseDummyInputsBuilder, BaseMultiModalProcessor, BaseProcessingInfo

from engines.owl2.config import IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.loading import resolve_folder
from engines.owl2.processor import ImageProcessor, serving_aspect_ratio
from engines.owl2.runner import PreparedRequest
from engines.owl2_vllm.prompts import Span, digest, expand, image_token_id, mark_rows, picture_keys, salt_of

_FIELDS = {"pixel_values": MultiModalFieldConfig.batched("image")}


def to_engine_input(prepared: PreparedRequest, config: MPLUGOwl2Config) -> MultiModalInput | TokensInput:
    """Hand a prepared request to vLLM."""
    ids, spans = mark_rows(prepared, image_token_id(config))
    salt = salt_of(prepared.scope)
    if not spans:
        return tokens_input(ids, cache_salt=salt)
    pixels = torch.stack([picture for picture in prepared.pictures if picture is not None])
    return _with_pictures(ids, spans, pixels, picture_keys(prepared), salt)


class Owl2ProcessingInfo(BaseProcessingInfo):
    """What vLLM asks before there is a request."""

    def get_hf_config(self) -> MPLUGOwl2Config:
        """Return the checkpoint's config."""
        return self.ctx.get_hf_config(MPLUGOwl2Config)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Pictures, as many as the operator allows."""
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Every picture takes the same number of rows."""
        return {"image": self.get_hf_config().num_image_rows}


class Owl2DummyInputs(BaseDummyInputsBuilder[Owl2ProcessingInfo]):
    """Pictures for vLLM's measuring of memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """None: the pictures alone are the prompt."""
        return ""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]) -> Any:
        """As many grey squares as are asked for."""
        side = self.info.get_hf_config().vision.image_size
        return {"image": [Image.new("RGB", (side, side), (120, 120, 120))] * mm_counts.get("image", 0)}


class Owl2Processing(BaseMultiModalProcessor[Owl2ProcessingInfo]):
    """Ids and decoded pictures to an ``EngineInput``, without a processor of transformers."""

    requires_tokenizer: ClassVar[bool] = False

    def apply(self, inputs: Any, timing_ctx: Any = None) -> MultiModalInput:
        """Give every picture its rows and its pixels.

        Args:
            inputs: vLLM's ``ProcessorInputs``: ids with one marker per picture, or none at all for pictures alone.
            timing_ctx: not used.

        Raises:
            ValueError: if there are not exactly as many pictures as markers.
        """
        config = self.info.get_hf_config()
        pictures = inputs.mm_data_items.get_items("image", ImageProcessorItems).get_all()
        ids = list(inputs.prompt) or [IMAGE_TOKEN_ID] * len(pictures)
        ids, spans = expand(ids, config.num_image_rows, image_token_id(config))
        if len(spans) != len(pictures):
            raise ValueError(f"{len(spans)} image markers in the prompt's ids but {len(pictures)} images")
        ratio = serving_aspect_ratio(config)
        pixels = torch.stack([torch.from_numpy(self._images(picture, ratio)) for picture in pictures])
        hashes = [digest(blake2b(values.numpy().tobytes()).hexdigest()) for values in pixels]
        return _with_pictures(ids, spans, pixels, hashes, None)

    @cached_property
    def _images(self) -> ImageProcessor:
        return ImageProcessor.from_folder(resolve_folder(self.info.ctx.model_config.model))

    def _get_mm_fields_config(self, *_: Any, **__: Any) -> Mapping[str, MultiModalFieldConfig]:
        return _FIELDS

    def _get_prompt_updates(self, *_: Any, **__: Any) -> Sequence[Any]:
        return ()  # `apply` puts the rows in


def _with_pictures(
    ids: list[int], spans: Sequence[Span], pixels: Tensor, hashes: list[str], salt: str | None
) -> MultiModalInput:
    items = MultiModalKwargsItems.from_hf_inputs(BatchFeature({"pixel_values": pixels}), _FIELDS)
    places = {"image": [PlaceholderRange(offset=start, length=length) for start, length in spans]}
    return mm_input(ids, items, {"image": hashes}, places, cache_salt=salt)
