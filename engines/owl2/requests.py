"""From a request to what the model reads: checked, its prompt tokenised, its pictures decoded.

In: a `GenerationRequest`. Out: a `PreparedRequest`, or the error that says why not. Knows the checkpoint's processor
and config but no weights, so that whatever runs the model can share it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image

from engines.adapter_names import MODEL_NAMES, check_adapter
from engines.base import (
    EngineInfo,
    GenerationRequest,
    ImagePart,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
    Usage,
    check_could_fit,
    fit_max_tokens,
)
from engines.images import decode_image
from engines.owl2.config import IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.files import CheckpointError
from engines.owl2.loading import read_variant
from engines.owl2.processor import MPLUGOwl2Processor
from engines.owl2.prompts import render
from engines.owl2.runner import PreparedRequest
from engines.revision import adapter_revisions, revision_of
from engines.runtime.prefix_cache import CacheScope
from engines.token_costs import TokenCosts

DEFAULT_MAX_TOKENS = 512
# The model saw one picture per conversation in instruction tuning; more than a few are accepted by no published use.
MAX_IMAGES = 4
# Pictures may take at most this share of the context, or nothing would be left for the question and the answer.
_IMAGE_CONTEXT_SHARE = 4
# Squaring a picture makes an array of its longer side squared, 300 MB at this bound; longer ones are scaled down first.
_MAX_SIDE_PX = 10_000
# The vision tower sees 448 px a side; pictures that are not square lose more by cropping or squeezing.
_SEEN_PIXELS = 1_000_000

# Part of every cache key: to be raised with any change to prompts.py, tokenizer.py or processor.py that changes inputs.
_PREPROCESS_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that was found to fit, before any of its pictures is decoded.

    Attributes:
        ids: of the prompt, `IMAGE_TOKEN_ID` for a picture.
        images: the pictures, in the order of their places.
        max_tokens: how many may be generated.
    """

    ids: list[int]
    images: tuple[ImagePart, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Preparation:
    """Makes requests ready for one checkpoint; any thread may use it.

    Attributes:
        processor: of the checkpoint.
        info: what callers may know.
        scope: what cached values depend on, but for the caller.
        num_image_rows: positions that one picture takes.
    """

    processor: MPLUGOwl2Processor
    info: EngineInfo
    scope: CacheScope
    num_image_rows: int

    @classmethod
    def of_checkpoint(
        cls, folder: Path, config: MPLUGOwl2Config, numbers: str, adapters: Sequence[tuple[str, str]] = ()
    ) -> Preparation:
        """Read the processor of a checkpoint and describe the engine that serves it.

        Args:
            folder: of the checkpoint.
            config: of its model.
            numbers: what the values that the model computes depend on beside the weights: dtype, kernels.
            adapters: as (name, folder or hub id).

        Raises:
            CheckpointError: if a file is missing or does not fit the others.
        """
        processor = MPLUGOwl2Processor.from_pretrained(folder)
        _check_fit(config, processor)
        how = f"{numbers}/{_PREPROCESS_VERSION}"
        info = EngineInfo(
            name="owl2",
            model=MODEL_NAMES["owl2"],
            variant=read_variant(folder),
            context_tokens=config.max_position_embeddings,
            max_images=max_images_for(config),
            adapters=tuple(name for name, _ in adapters),
            costs=TokenCosts(DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS, tokens_per_picture=config.num_image_rows),
            revision=revision_of([("", str(folder)), *adapters], how),
            adapter_revisions=adapter_revisions(str(folder), adapters, how),
        )
        scope = CacheScope("", str(folder), dtype=numbers, preprocess=_PREPROCESS_VERSION)
        return cls(processor, info, scope, config.num_image_rows)

    def plan(self, request: GenerationRequest) -> Plan:
        """Check a request before any of its pictures is decoded.

        Raises:
            UnknownAdapterError: for an adapter that was not loaded.
            InvalidRequestError: if the last message is not the user's; for what this model cannot do.
            TooManyImagesError: if there are more pictures than the engine accepts.
            ContextLengthError: if prompt and answer do not fit.
        """
        ids, images, num_tokens = self._to_prompt(request)
        max_tokens = fit_max_tokens(
            num_tokens, request.sampling.max_tokens, DEFAULT_MAX_TOKENS, self.info.context_tokens
        )
        return Plan(ids, images, max_tokens)

    def count(self, request: GenerationRequest) -> Usage:
        """See `engines.base.CountsTokens`."""
        _, images, num_tokens = self._to_prompt(request)
        return Usage(prompt_tokens=num_tokens, image_tokens=len(images) * self.num_image_rows)

    def _to_prompt(self, request: GenerationRequest) -> tuple[list[int], tuple[ImagePart, ...], int]:
        """Return the prompt's ids, its pictures, and how many positions both take."""
        check_adapter(request.adapter, self.info)
        if len(request.images) > self.info.max_images:
            raise TooManyImagesError(
                f"{len(request.images)} images in one request; this engine accepts at most {self.info.max_images}",
                param="messages",
            )
        if not request.messages or request.messages[-1].role != "user":
            raise InvalidRequestError("the last message must be the user's", param="messages")
        if request.sampling.json_schema is not None:
            raise InvalidRequestError(
                "mplug-owl2 cannot hold its answers to a JSON Schema: leave 'response_format' out, or ask "
                "glm-4.6v-flash",
                param="response_format",
            )
        if request.sampling.tool_use is not None or any(each.tool_calls for each in request.messages):
            raise InvalidRequestError(
                "mplug-owl2 neither calls functions nor reads their results: leave 'tools' out, or ask glm-4.6v-flash",
                param="tools",
            )
        prompt = render(request.messages)
        tokenizer, context_tokens = self.processor.tokenizer, self.info.context_tokens
        if tokenizer.longest_token is not None:
            check_could_fit(-(-tokenizer.least_chars(prompt) // tokenizer.longest_token), context_tokens)
        ids = tokenizer.encode_prompt(prompt)
        return ids, prompt.images, len(ids) + ids.count(IMAGE_TOKEN_ID) * (self.num_image_rows - 1)

    def to_pixels(self, image: ImagePart, is_wanted: Callable[[], bool] = lambda: True) -> torch.Tensor:
        """Turn one encoded picture into model inputs; (1, 3, S, S), float32.

        Raises:
            InvalidImageError: if it cannot be decoded.
            DecodeGoneError: if it is not wanted any more.
        """
        decoded = decode_image(image, max_side_px=_MAX_SIDE_PX, seen_pixels=_SEEN_PIXELS, is_wanted=is_wanted)
        return self.processor.pixel_values([decoded])

    def assemble(self, request: GenerationRequest, plan: Plan, pixels: Sequence[torch.Tensor]) -> PreparedRequest:
        """Put what was prepared together."""
        pixel_values = torch.cat(list(pixels)) if pixels else None
        scope = replace(self.scope, caller=request.caller, adapter=request.adapter)
        return PreparedRequest.make(
            plan.ids, pixel_values, self.num_image_rows, plan.max_tokens, request.sampling, scope
        )


def max_images_for(config: MPLUGOwl2Config) -> int:
    """Most pictures one request may hold, by the context they take: 4 for the published checkpoint."""
    fitting = config.max_position_embeddings // _IMAGE_CONTEXT_SHARE // config.num_image_rows
    return max(1, min(MAX_IMAGES, fitting))


def eos_token_ids_of(processor: MPLUGOwl2Processor, eos_token_id: int | Sequence[int] | None) -> frozenset[int]:
    """Return the tokens that end an answer: the tokenizer's own, and what ``generation_config.json`` names."""
    named = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id or []
    return frozenset({processor.tokenizer.eos_token_id, *named})


def warm_up_requests() -> tuple[GenerationRequest, GenerationRequest]:
    """One request per kind of prefill, so that the first caller does not pay for kernels and caches."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (120, 120, 120)).save(file, "PNG")
    picture = ImagePart(file.getvalue(), "image/png", sha256(file.getvalue()).hexdigest())
    question = TextPart("What is it?")
    sampling = SamplingParams(max_tokens=2)
    return (
        GenerationRequest((Message("user", (question,)),), sampling, request_id="warm-up"),
        GenerationRequest((Message("user", (picture, question)),), sampling, request_id="warm-up"),
    )


def _check_fit(config: MPLUGOwl2Config, processor: MPLUGOwl2Processor) -> None:
    if processor.image_processor.crop_size_px != config.vision.image_size:
        raise CheckpointError(
            f"preprocessor_config.json crops to {processor.image_processor.crop_size_px} px but the vision tower wants "
            f"{config.vision.image_size}"
        )
    if processor.tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"tokenizer.model has {processor.tokenizer.vocab_size} pieces but the model only {config.vocab_size} tokens"
        )
