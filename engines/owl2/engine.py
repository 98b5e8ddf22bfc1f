"""The engine: one checkpoint in memory, requests in, streamed answers out.

In: a `GenerationRequest`. Out: deltas. Pictures are decoded and prompts tokenised in a pool of threads beside the one
thread that owns the model; there, `runner.py` answers several requests at a time.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

import torch
from PIL import Image
from transformers.utils import is_flash_attn_2_available

from engines.base import (
    CallerWait,
    Delta,
    Engine,
    EngineInfo,
    EngineOptions,
    EngineUnavailableError,
    GenerationRequest,
    ImagePart,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
    check_could_fit,
    fit_max_tokens,
    generate,
)
from engines.images import decode_image
from engines.meters import EngineMeters, EngineState
from engines.owl2.config import IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.files import CheckpointError
from engines.owl2.loading import load_model, read_variant, resolve_folder
from engines.owl2.model import MPLUGOwl2ForConditionalGeneration
from engines.owl2.processor import MPLUGOwl2Processor
from engines.owl2.prompts import render
from engines.owl2.runner import Owl2Runner, PreparedRequest, Row, kv_shape
from engines.revision import revision_of
from engines.runtime.batching import ContinuousBatch
from engines.runtime.devices import resolve_device, resolve_dtype, size_batch
from engines.runtime.picture_stage import PictureStage
from engines.runtime.prefix_cache import CacheScope
from engines.runtime.scheduler import Scheduler
from engines.runtime.state import DeviceTimer, state_of
from engines.token_costs import TokenCosts

DEFAULT_MAX_TOKENS = 512
# The model saw one picture per conversation in instruction tuning; more than a few are accepted by no published use.
MAX_IMAGES = 4
# Pictures may take at most this share of the context, or nothing would be left for the question and the answer.
_IMAGE_CONTEXT_SHARE = 4
_NUM_PREPARE_THREADS = 4
# Squaring a picture makes an array of its longer side squared, 300 MB at this bound; longer ones are scaled down first.
_MAX_SIDE_PX = 10_000
# The vision tower sees 448 px a side; pictures that are not square lose more by cropping or squeezing.
_SEEN_PIXELS = 1_000_000

# Part of every cache key: to be raised with any change to prompts.py, tokenizer.py or processor.py that changes inputs.
_PREPROCESS_VERSION = "1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """Everything `Owl2Engine.start` loads.

    Attributes:
        model: only the model thread may touch it.
        processor: any thread may.
        eos_token_ids: tokens that end an answer.
        info: what callers may know.
        scope: what cached values depend on, but for the caller.
    """

    model: MPLUGOwl2ForConditionalGeneration
    processor: MPLUGOwl2Processor
    eos_token_ids: frozenset[int]
    info: EngineInfo
    scope: CacheScope


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


def max_images_for(config: MPLUGOwl2Config) -> int:
    """Most pictures one request may hold, by the context they take: 4 for the published checkpoint."""
    fitting = config.max_position_embeddings // _IMAGE_CONTEXT_SHARE // config.num_image_rows
    return max(1, min(MAX_IMAGES, fitting))


class Owl2Engine:
    """mPLUG-Owl2 as an `Engine`.

    Args:
        options: how to load it.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._loaded: LoadedCheckpoint | None = None
        self._runner: Owl2Runner | None = None
        self._scheduler: Scheduler[PreparedRequest, Row] | None = None
        self._pool = ThreadPoolExecutor(_NUM_PREPARE_THREADS, thread_name_prefix="owl2-prepare")
        self.meters = EngineMeters()
        self._pictures = PictureStage("owl2-pictures", tell=self.meters.decoded)

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: before it was started.
        """
        return self._get_loaded().info

    async def start(self) -> None:
        """Load the checkpoint on the model thread and answer two small requests, one of them with a picture.

        Raises:
            CheckpointError: if the folder is incomplete, or does not fit the model or together.
            ValueError: if its config or an option asks for something that is not supported.
        """
        self._scheduler = Scheduler("owl2-model", self._options.max_queue)
        await self._scheduler.start(self._make_batch)
        for request in _warm_up_requests():
            await generate(self, request)
        await self._scheduler.call(self._forget_warm_up)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer; closing the generator frees its row before the next decode step.

        Raises:
            EngineUnavailableError: before `start` or after `aclose`.
            EngineOverloadedError: if too many requests are waiting.
            InvalidRequestError: or one of its kinds, if the request cannot be answered as it is.
            GenerationFailedError: if the model raised.
        """
        loaded = self._get_loaded()
        assert self._scheduler is not None  # set before anything was loaded

        async def prepare() -> PreparedRequest:
            loop = asyncio.get_running_loop()
            plan = await loop.run_in_executor(self._pool, make_plan, loaded, request)
            pixels = await self._pictures.run_all(plan.images, partial(to_pixels, loaded), request.caller)
            return await loop.run_in_executor(self._pool, assemble, loaded, request, plan, pixels)

        async with aclosing(self._scheduler.stream(prepare, request.caller)) as deltas:
            async for delta in deltas:
                yield delta

    async def aclose(self) -> None:
        """Stop the running generations, refuse the waiting ones and let go of the weights."""
        if self._scheduler is not None:
            await self._scheduler.aclose()
        if self._runner is not None:
            log.info("%s", self._runner.cache.stats.describe())
        self._loaded = self._runner = self._scheduler = None
        self._pool.shutdown(wait=False)
        self._pictures.close()

    def trouble(self) -> str:
        """See `engines.base.HasTrouble`."""
        return self._pictures.trouble()

    def waiting(self) -> tuple[CallerWait, ...]:
        """See `engines.base.HasWaiting`."""
        return () if self._scheduler is None else self._scheduler.waiting()

    def state(self) -> EngineState:
        """See `engines.meters.HasMeters`."""
        runner = self._runner
        return EngineState() if runner is None else state_of(self._scheduler, runner.cache.stats, runner.device)

    def _get_loaded(self) -> LoadedCheckpoint:
        if self._loaded is None:
            raise EngineUnavailableError("the owl2 engine is not started, still loading, or closed")
        return self._loaded

    def _make_batch(self) -> ContinuousBatch[PreparedRequest, Row]:
        loaded = self._load()
        limits, cache = size_batch(self._options, loaded.model.device, kv_shape(loaded.model))
        tokenizer = loaded.processor.tokenizer
        self._runner = Owl2Runner(loaded.model, tokenizer, loaded.eos_token_ids, cache, limits.max_rows)
        self._loaded = loaded
        self._runner.timer = DeviceTimer(loaded.model.device, self.meters.encoded)
        return ContinuousBatch(self._runner, limits, tell=self.meters.stepped)

    def _forget_warm_up(self) -> None:
        assert self._runner is not None
        self._runner.cache.clear()

    def _load(self) -> LoadedCheckpoint:
        device = resolve_device(self._options.device)
        folder = resolve_folder(self._options.model)
        model = load_model(
            folder,
            dtype=resolve_dtype(self._options.dtype, device),
            device=device,
            attn_implementation=_choose_attention(self._options.attn_implementation, device),
            quantization=self._options.quantization,
        )
        processor = MPLUGOwl2Processor.from_pretrained(folder)
        _check_fit(model.config, processor)
        eos = model.generation_config.eos_token_id
        eos_token_ids = {processor.tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos or [])}
        dtype = f"{model.dtype}/{self._options.quantization}/{model.config._attn_implementation}"
        info = EngineInfo(
            name="owl2",
            model="mplug-owl2",
            variant=read_variant(folder),
            context_tokens=model.config.max_position_embeddings,
            max_images=max_images_for(model.config),
            costs=TokenCosts(DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS, tokens_per_picture=model.config.num_image_rows),
            revision=revision_of([("", str(folder))], f"{dtype}/{_PREPROCESS_VERSION}"),
        )
        log.info("loaded %s (%s) on %s as %s", info.model_id, folder, model.device, model.dtype)
        scope = CacheScope("", str(folder), dtype=dtype, preprocess=_PREPROCESS_VERSION)
        return LoadedCheckpoint(model, processor, frozenset(eos_token_ids), info, scope)


def load(options: EngineOptions) -> Engine:
    """Make the engine; the weights load in its ``start``."""
    return Owl2Engine(options)


def make_plan(loaded: LoadedCheckpoint, request: GenerationRequest) -> Plan:
    """Check a request before any of its pictures is decoded.

    Raises:
        InvalidRequestError: if the last message is not the user's.
        TooManyImagesError: if there are more pictures than the engine accepts.
        ContextLengthError: if prompt and answer do not fit.
    """
    if len(request.images) > loaded.info.max_images:
        raise TooManyImagesError(
            f"{len(request.images)} images in one request; this engine accepts at most {loaded.info.max_images}",
            param="messages",
        )
    if not request.messages or request.messages[-1].role != "user":
        raise InvalidRequestError("the last message must be the user's", param="messages")
    if request.sampling.json_schema is not None:
        raise InvalidRequestError(
            "mplug-owl2 cannot hold its answers to a JSON Schema: leave 'response_format' out, or ask glm-4.6v-flash",
            param="response_format",
        )
    prompt = render(request.messages)
    tokenizer, context_tokens = loaded.processor.tokenizer, loaded.info.context_tokens
    if tokenizer.longest_token is not None:
        check_could_fit(-(-tokenizer.least_chars(prompt) // tokenizer.longest_token), context_tokens)
    ids = tokenizer.encode_prompt(prompt)
    num_image_rows = loaded.model.config.num_image_rows
    num_tokens = len(ids) + ids.count(IMAGE_TOKEN_ID) * (num_image_rows - 1)
    max_tokens = fit_max_tokens(num_tokens, request.sampling.max_tokens, DEFAULT_MAX_TOKENS, context_tokens)
    return Plan(ids, prompt.images, max_tokens)


def to_pixels(loaded: LoadedCheckpoint, image: ImagePart, is_wanted: Callable[[], bool] = lambda: True) -> torch.Tensor:
    """Turn one encoded picture into model inputs; (1, 3, S, S), float32.

    Raises:
        InvalidImageError: if it cannot be decoded.
        DecodeGoneError: if it is not wanted any more.
    """
    decoded = decode_image(image, max_side_px=_MAX_SIDE_PX, seen_pixels=_SEEN_PIXELS, is_wanted=is_wanted)
    return loaded.processor.pixel_values([decoded])


def assemble(
    loaded: LoadedCheckpoint, request: GenerationRequest, plan: Plan, pixels: Sequence[torch.Tensor]
) -> PreparedRequest:
    """Put what was prepared together."""
    pixel_values = torch.cat(list(pixels)) if pixels else None
    scope = replace(loaded.scope, caller=request.caller)
    num_image_rows = loaded.model.config.num_image_rows
    return PreparedRequest.make(plan.ids, pixel_values, num_image_rows, plan.max_tokens, request.sampling, scope)


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


def _choose_attention(name: str, device: torch.device) -> str:
    if name != "auto":
        return name
    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def _warm_up_requests() -> tuple[GenerationRequest, GenerationRequest]:
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
