"""The engine: one checkpoint in memory, requests in, streamed answers out.

In: a `GenerationRequest`. Out: deltas. Pictures are decoded and prompts tokenised in a pool of threads beside the one
thread that owns the model.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import is_flash_attn_2_available

from engines.base import (
    Delta,
    Engine,
    EngineInfo,
    EngineOptions,
    EngineUnavailableError,
    FinishReason,
    GenerationRequest,
    ImagePart,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
    Usage,
    fit_max_tokens,
    generate,
)
from engines.batching import Emit, IsCancelled, ModelThread
from engines.images import decode_image
from engines.owl2.config import IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.decoding import Sampler, StopStrings
from engines.owl2.model import MPLUGOwl2ForConditionalGeneration
from engines.owl2.processor import MPLUGOwl2Processor
from engines.owl2.prompts import render
from engines.owl2.tokenizer import IncrementalDecoder
from engines.owl2.weights import CheckpointError, load_model, read_variant, resolve_folder

DEFAULT_MAX_TOKENS = 512
# The model saw one picture per conversation in instruction tuning; more than a few are accepted by no published use.
MAX_IMAGES = 4
# Pictures may take at most this share of the context, or nothing would be left for the question and the answer.
_IMAGE_CONTEXT_SHARE = 4
_NUM_PREPARE_THREADS = 4
# Squaring a picture makes an array of its longer side squared, 300 MB at this bound; longer ones are scaled down first.
_MAX_SIDE_PX = 10_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request ready for the model.

    Attributes:
        input_ids: (1, S), -200 for a picture.
        pixel_values: (N, 3, S, S) float32, or None.
        prompt_tokens: length of the prompt after pictures were put in.
        image_tokens: how many of them belong to pictures.
        max_tokens: bound of the answer; fits the context.
        sampling: the request's knobs.
    """

    input_ids: Tensor
    pixel_values: Tensor | None
    prompt_tokens: int
    image_tokens: int
    max_tokens: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """Everything `Owl2Engine.start` loads.

    Attributes:
        model: only the model thread may touch it.
        processor: any thread may.
        eos_token_ids: tokens that end an answer.
        info: what callers may know.
    """

    model: MPLUGOwl2ForConditionalGeneration
    processor: MPLUGOwl2Processor
    eos_token_ids: frozenset[int]
    info: EngineInfo


def max_images_for(config: MPLUGOwl2Config) -> int:
    """Most pictures one request may hold, by the context they take: 4 for the published checkpoint."""
    fitting = config.max_position_embeddings // _IMAGE_CONTEXT_SHARE // config.num_image_rows
    return max(1, min(MAX_IMAGES, fitting))


@torch.inference_mode()
def decode_tokens(
    model: MPLUGOwl2ForConditionalGeneration, input_ids: Tensor, pixel_values: Tensor | None, sampler: Sampler
) -> Iterator[int]:
    """Generate token after token, without end; one forward per token.

    Args:
        model: on whose device the inputs are.
        input_ids: (1, S), -200 for a picture.
        pixel_values: (N, 3, S, S) or None.
        sampler: chooses each token.
    """
    cache = DynamicCache(config=model.config)
    outputs = model(
        input_ids=input_ids, pixel_values=pixel_values, past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    while True:
        token_id = sampler(outputs.logits[0, -1])
        yield token_id
        step = torch.tensor([[token_id]], device=input_ids.device)
        outputs = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)


class Owl2Engine:
    """mPLUG-Owl2 as an `Engine`.

    Args:
        options: how to load it.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._loaded: LoadedCheckpoint | None = None
        self._thread: ModelThread | None = None
        self._pool = ThreadPoolExecutor(_NUM_PREPARE_THREADS, thread_name_prefix="owl2-prepare")

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
        self._thread = ModelThread("owl2-model", self._options.max_queue)
        self._loaded = await self._thread.call(self._load)
        for request in _warm_up_requests():
            await generate(self, request)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer; closing the generator stops the model within one decode step.

        Raises:
            EngineUnavailableError: before `start` or after `aclose`.
            EngineOverloadedError: if too many requests are waiting.
            InvalidRequestError: or one of its kinds, if the request cannot be answered as it is.
            GenerationFailedError: if the model raised.
        """
        loaded = self._get_loaded()
        assert self._thread is not None  # set before anything was loaded
        prepared = await asyncio.get_running_loop().run_in_executor(self._pool, prepare, loaded, request)

        def work(emit: Emit, is_cancelled: IsCancelled) -> None:
            run(loaded, prepared, emit, is_cancelled)

        async with aclosing(self._thread.stream(work)) as deltas:
            async for delta in deltas:
                yield delta

    async def aclose(self) -> None:
        """Stop the running generation, refuse the waiting ones and let go of the weights."""
        if self._thread is not None:
            await self._thread.aclose()
        self._loaded = None
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _get_loaded(self) -> LoadedCheckpoint:
        if self._loaded is None:
            raise EngineUnavailableError("the owl2 engine is not started, still loading, or closed")
        return self._loaded

    def _load(self) -> LoadedCheckpoint:
        device = _choose_device(self._options.device)
        folder = resolve_folder(self._options.model)
        model = load_model(
            folder,
            dtype=_choose_dtype(self._options.dtype, device),
            device=device,
            attn_implementation=_choose_attention(self._options.attn_implementation, device),
        )
        processor = MPLUGOwl2Processor.from_pretrained(folder)
        _check_fit(model.config, processor)
        eos = model.generation_config.eos_token_id
        eos_token_ids = {processor.tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos or [])}
        info = EngineInfo(
            name="owl2",
            model="mplug-owl2",
            variant=read_variant(folder),
            context_tokens=model.config.max_position_embeddings,
            max_images=max_images_for(model.config),
        )
        log.info("loaded %s (%s) on %s as %s", info.model_id, folder, model.device, model.dtype)
        return LoadedCheckpoint(model, processor, frozenset(eos_token_ids), info)


def load(options: EngineOptions) -> Engine:
    """Make the engine; the weights load in its ``start``."""
    return Owl2Engine(options)


def prepare(loaded: LoadedCheckpoint, request: GenerationRequest) -> PreparedRequest:
    """Check a request and turn it into model inputs; cheap checks come before any picture is decoded.

    Raises:
        InvalidRequestError: if the last message is not the user's.
        TooManyImagesError: if there are more pictures than the engine accepts.
        ContextLengthError: if prompt and answer do not fit.
        InvalidImageError: if a picture cannot be decoded.
    """
    if len(request.images) > loaded.info.max_images:
        raise TooManyImagesError(
            f"{len(request.images)} images in one request; this engine accepts at most {loaded.info.max_images}",
            param="messages",
        )
    if not request.messages or request.messages[-1].role != "user":
        raise InvalidRequestError("the last message must be the user's", param="messages")
    prompt = render(request.messages)
    ids = loaded.processor.tokenizer.encode_prompt(prompt)
    image_tokens = ids.count(IMAGE_TOKEN_ID) * loaded.model.config.num_image_rows
    prompt_tokens = len(ids) - len(prompt.images) + image_tokens
    max_tokens = fit_max_tokens(
        prompt_tokens, request.sampling.max_tokens, DEFAULT_MAX_TOKENS, loaded.info.context_tokens
    )
    images = [decode_image(image, max_side_px=_MAX_SIDE_PX) for image in prompt.images]
    return PreparedRequest(
        input_ids=torch.tensor([ids]),
        pixel_values=loaded.processor.pixel_values(images) if images else None,
        prompt_tokens=prompt_tokens,
        image_tokens=image_tokens,
        max_tokens=max_tokens,
        sampling=request.sampling,
    )


def run(loaded: LoadedCheckpoint, prepared: PreparedRequest, emit: Emit, is_cancelled: IsCancelled) -> None:
    """Generate one answer on the model thread.

    Raises:
        EngineUnavailableError: if it was cancelled, also between two tokens.
    """
    model = loaded.model
    pixel_values = prepared.pixel_values
    if pixel_values is not None:
        pixel_values = pixel_values.to(model.device, model.dtype)
    sampler = Sampler(prepared.sampling, model.device)
    decoder = IncrementalDecoder(loaded.processor.tokenizer)
    stops = StopStrings(prepared.sampling.stop)
    finish_reason: FinishReason = "length"
    completion_tokens = 0

    tokens = decode_tokens(model, prepared.input_ids.to(model.device), pixel_values, sampler)
    while completion_tokens < prepared.max_tokens:
        if is_cancelled():
            raise EngineUnavailableError("the generation was cancelled")
        token_id = next(tokens)
        completion_tokens += 1
        if token_id in loaded.eos_token_ids:
            finish_reason = "stop"
            break
        text = stops.push(decoder.push(token_id))
        if stops.is_stopped:
            finish_reason = "stop"
            if text:
                emit(Delta(text=text))
            break
        if text:
            emit(Delta(text=text))
    rest = stops.push(decoder.finish()) + stops.finish()
    if stops.is_stopped:
        finish_reason = "stop"
    usage = Usage(
        prompt_tokens=prepared.prompt_tokens,
        completion_tokens=completion_tokens,
        image_tokens=prepared.image_tokens,
    )
    emit(Delta(text=rest, finish_reason=finish_reason, usage=usage))


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


def _choose_device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype {name!r} is none; use auto, float32, bfloat16 or float16")
    return dtype


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
