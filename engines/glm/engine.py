"""GLM-4.6V-Flash in this process: transformers' own model class behind our engine border, one request at a time.

In: a `GenerationRequest`. Out: `Delta`s as the model writes them. Text and pictures are prepared in a small pool;
one `ModelThread` owns the model and everything stateful on it.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import DynamicCache

from engines.base import (
    Alternative,
    Delta,
    EngineInfo,
    EngineOptions,
    EngineOverloadedError,
    EngineUnavailableError,
    FinishReason,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    TooManyImagesError,
    Usage,
    Variant,
    fit_max_tokens,
)
from engines.batching import Emit, IsCancelled, ModelThread
from engines.glm.loading import load_model, resolve_device, resolve_dtype
from engines.glm.parsing import AnswerParser, ReasoningSplitter, StreamDetokenizer, TokenBytes
from engines.glm.processor import load_processor
from engines.glm.prompts import to_conversation
from engines.images import decode_image, picture_size
from engines.sampling import Pick, Sampler

MAX_IMAGES = 16
MAX_SIDE_PX = 2048  # longer pictures are scaled down at decoding; costs no token under the pixel budget
PIXEL_BUDGET = 1_000_000  # pixels per picture, about 1300 tokens; vision attention is quadratic in them
MAX_ASPECT_RATIO = 200
DEFAULT_MAX_TOKENS = 1024
DEFAULT_MAX_TOKENS_THINKING = 4096  # thinking and answer share one budget
FULL_CONTEXT_TOKENS = 131_072
_PREPARED_AHEAD = 3  # requests whose pixels wait in memory for the model thread, beside the running one

T = TypeVar("T")
log = logging.getLogger(__name__)


def load(options: EngineOptions) -> GlmEngine:
    """Make the engine; cheap, the weights load in `GlmEngine.start`."""
    return GlmEngine(options)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that was found to fit: its tokens, before any pixel was decoded.

    Attributes:
        input_ids: S ids, every picture already as many placeholders as it will have rows.
        num_image_tokens: how many of them are placeholders.
        max_tokens: how many may be generated.
    """

    input_ids: list[int]
    num_image_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the vision tower takes: (P, 1176) float32 patches of all pictures, and (N, 3) their grids."""

    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor


class GlmEngine:
    """One checkpoint in the layout of zai-org/GLM-4.6V-Flash.

    Args:
        options: which checkpoint, where, and how many requests may wait.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._info = _describe(options.model)
        self._pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="glm-prepare")
        # Encoding sanitised text toggles a flag on the tokenizer: two threads at once would corrupt each other's ids.
        self._tokenizer_lock = threading.Lock()
        self._thread: ModelThread | None = None
        self._model: Any = None
        self._health: dict[str, str] = {}
        self._is_ready = False
        self._is_closed = False
        self._num_requests = 0

    async def info(self) -> EngineInfo:
        """Describe the engine; the context is the checkpoint's own."""
        return self._info

    async def start(self) -> None:
        """Load the weights on the model thread and answer one text and one picture question, to be warm afterwards.

        Raises:
            OSError: if the checkpoint is not there or not whole.
        """
        self._thread = ModelThread("glm-model", self._options.max_queue)
        self._slots = asyncio.Semaphore(1 + _PREPARED_AHEAD)
        await self._thread.call(self._load)
        for request in _warm_up_requests():
            async with aclosing(self._answer(request)) as deltas:
                async for _ in deltas:
                    pass
        self._is_ready = True

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer; see `engines.base.Engine.stream`.

        Raises:
            EngineUnavailableError: before `start` has returned, or after `aclose`.
            EngineOverloadedError: if ``max_queue`` requests wait already.
            TooManyImagesError: for more than `MAX_IMAGES` pictures.
            InvalidImageError: for a picture that does not decode or is over 200 times longer than wide.
            ContextLengthError: if the prompt leaves no room for an answer.
            GenerationFailedError: if the model raised.
        """
        if not self._is_ready:
            raise EngineUnavailableError("the engine is not ready: its weights are still loading, or it was closed")
        if self._num_requests > self._options.max_queue:
            raise EngineOverloadedError(f"{self._options.max_queue} requests are waiting for this engine already")
        self._num_requests += 1
        try:
            async with aclosing(self._answer(request)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._num_requests -= 1

    async def aclose(self) -> None:
        """Stop the running generation, refuse the waiting ones and let the weights go."""
        self._is_ready = False
        self._is_closed = True
        if self._thread is not None:
            await self._thread.aclose()
        self._pool.shutdown(wait=False)
        self._model = None

    @property
    def health(self) -> dict[str, str]:
        """What was chosen at load: ``device``, ``dtype`` and ``attn_implementation``."""
        return dict(self._health)

    async def _answer(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        assert self._thread is not None
        plan = await self._in_pool(lambda: self.plan(request))  # cheap, and refuses before anything waits
        async with self._slots:
            pixels = await self._decode(request.images) if request.images else None

            def work(emit: Emit, is_cancelled: IsCancelled) -> None:
                self._generate(plan, pixels, request, emit, is_cancelled)

            async with aclosing(self._thread.stream(work)) as deltas:
                async for delta in deltas:
                    yield delta

    # -- preparing, in the pool ---------------------------------------------------------------------------------------

    def plan(self, request: GenerationRequest) -> Plan:
        """Render and tokenize a request, and check that it fits.

        Raises:
            TooManyImagesError: see `stream`.
            InvalidImageError: for what a picture's header shows.
            ContextLengthError: naming by how many tokens.
        """
        images = request.images
        if len(images) > MAX_IMAGES:
            raise TooManyImagesError(f"{len(images)} pictures were sent; this model accepts at most {MAX_IMAGES}.")
        num_rows = [self._num_rows(image) for image in images]
        conversation = to_conversation(request.messages, enable_thinking=request.enable_thinking)
        input_ids = self.encode(conversation, num_rows, enable_thinking=request.enable_thinking)
        default = DEFAULT_MAX_TOKENS_THINKING if request.enable_thinking else DEFAULT_MAX_TOKENS
        wanted = request.sampling.max_tokens
        max_tokens = fit_max_tokens(len(input_ids), wanted, default, self._info.context_tokens)
        return Plan(input_ids, sum(num_rows), max_tokens)

    def encode(self, conversation: list[dict[str, Any]], num_rows: list[int], *, enable_thinking: bool) -> list[int]:
        """Render a conversation with the checkpoint's template and tokenize it.

        Args:
            conversation: as `engines.glm.prompts.to_conversation` makes it.
            num_rows: placeholders of each picture, in order.
            enable_thinking: False tells the model not to think.

        Returns:
            S ids. Control tokens inside callers' text come as plain text.
        """
        with self._tokenizer_lock:
            ids = self.processor.tokenizer.apply_chat_template(
                conversation,
                chat_template=self.processor.chat_template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
                enable_thinking=enable_thinking,
            )
        rows = iter(num_rows)
        image_id = self.processor.image_token_id
        return [item for id_ in ids for item in ([id_] * next(rows) if id_ == image_id else (id_,))]

    def _num_rows(self, image: ImagePart) -> int:
        """Count a picture's placeholders from its header."""
        width, height = picture_size(image, max_side_px=MAX_SIDE_PX)
        try:
            if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                raise ValueError("too long")
            return self.processor.num_image_tokens(width, height, self._image_size)
        except ValueError as error:
            raise InvalidImageError(
                f"A picture of {width}x{height} pixels is too long: the longer side may be at most {MAX_ASPECT_RATIO} "
                "times the shorter one."
            ) from error

    async def _decode(self, images: tuple[ImagePart, ...]) -> Pixels:
        """Decode, scale and patchify pictures, each on a pool thread of its own."""
        batches = await asyncio.gather(*(self._in_pool(partial(self.patchify, image)) for image in images))
        return Pixels(torch.cat([b.pixel_values for b in batches]), torch.cat([b.image_grid_thw for b in batches]))

    def patchify(self, image: ImagePart) -> Pixels:
        """Turn one encoded picture into patches under the pixel budget.

        Raises:
            InvalidImageError: if it does not decode.
        """
        picture = decode_image(image, max_side_px=MAX_SIDE_PX)
        batch = self.processor.image_processor(images=[picture], size=self._image_size, return_tensors="pt")
        return Pixels(batch["pixel_values"], batch["image_grid_thw"])

    async def _in_pool(self, function: Callable[[], T]) -> T:
        if self._is_closed:
            raise EngineUnavailableError("the engine is shutting down")
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    # -- on the model thread ------------------------------------------------------------------------------------------

    def _load(self) -> None:
        options = self._options
        self.processor = load_processor(options.model)
        tokenizer = self.processor.tokenizer
        # The decoding copy is never reconfigured, so it needs no lock.
        self._detokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._token_bytes = TokenBytes(self._detokenizer)
        size = self.processor.image_processor.size
        # The unit is pixels of two frames, since a still picture is a film of two equal frames here.
        self._image_size = {
            "shortest_edge": size["shortest_edge"],
            "longest_edge": min(2 * PIXEL_BUDGET, size["longest_edge"]),
        }
        self._device = resolve_device(options.device)
        dtype = resolve_dtype(options.dtype, self._device)
        self._model, attention = load_model(
            options.model, self._device, dtype, options.attn_implementation, options.quantization
        )
        self._health = {"device": str(self._device), "dtype": str(dtype), "attn_implementation": attention}
        log.info("glm loaded from %s: %s", options.model, self._health)
        stop_ids = _as_list(self._model.config.get_text_config().eos_token_id)
        stop_ids += _as_list(self._model.generation_config.eos_token_id)
        self._stop_ids = frozenset(stop_ids)
        self._info = replace(self._info, context_tokens=self._model.config.get_text_config().max_position_embeddings)

    def make_parser(self, stop: tuple[str, ...] = ()) -> AnswerParser:
        """Make the parser for one answer; ids are resolved by name, since every checkpoint numbers them its own way."""
        to_id = self.processor.tokenizer.convert_tokens_to_ids
        splitter = ReasoningSplitter(
            to_id("<think>"), to_id("</think>"), {to_id("<|begin_of_box|>"), to_id("<|end_of_box|>")}
        )
        return AnswerParser(splitter, lambda: StreamDetokenizer(self._detokenizer), stop)

    def _generate(
        self,
        plan: Plan,
        pixels: Pixels | None,
        request: GenerationRequest,
        emit: Emit,
        is_cancelled: IsCancelled,
    ) -> None:
        parser = self.make_parser(request.sampling.stop)
        finish_reason: FinishReason = "length"
        num_generated = 0
        # Log probabilities of the answer's tokens since the last delta: neither of the thinking nor of any mark.
        logprobs: list[TokenLogprob] = []
        try:
            for pick in self.decode(plan, pixels, request.sampling):
                if is_cancelled():
                    return
                num_generated += 1
                if pick.token_id in self._stop_ids:
                    finish_reason = "stop"
                    break
                delta = parser.push(pick.token_id)
                if parser.channel == "text" and pick.logprob is not None:
                    logprobs.append(self._to_logprob(pick, pick.logprob))
                if delta is not None:
                    emit(replace(delta, logprobs=tuple(logprobs)))
                    logprobs.clear()
                if parser.is_stopped:
                    finish_reason = "stop"
                    break
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise GenerationFailedError("the engine ran out of memory on this request") from error
        if (rest := parser.finish()) is not None or logprobs:
            emit(replace(rest or Delta(), logprobs=tuple(logprobs)))
        usage = Usage(
            prompt_tokens=len(plan.input_ids),
            image_tokens=plan.num_image_tokens,
            completion_tokens=num_generated,
            reasoning_tokens=parser.num_reasoning_tokens,
        )
        emit(Delta(finish_reason=finish_reason, usage=usage))

    def _to_logprob(self, pick: Pick, logprob: float) -> TokenLogprob:
        others = [(self._token_bytes.of(id_), value) for id_, value in pick.top]
        data = self._token_bytes.of(pick.token_id)
        return TokenLogprob(
            data.decode("utf-8", "replace"),
            logprob,
            data,
            top=tuple(Alternative(other.decode("utf-8", "replace"), value, other) for other, value in others),
        )

    @torch.inference_mode()
    def decode(self, plan: Plan, pixels: Pixels | None, sampling: SamplingParams) -> Iterator[Pick]:
        """Prefill a prompt, then yield one token after another, stop ids included, up to ``plan.max_tokens``.

        Positions are always passed in: left alone, the model would use the ``rope_deltas`` that the request before
        this one left on it, and answer wrongly without an error.

        Raises:
            GenerationFailedError: if the model's numbers overflow.
        """
        sampler = Sampler(sampling)
        cache = DynamicCache(config=self._model.config.get_text_config())
        logits, position = self.prefill(plan.input_ids, pixels, cache)
        for step in range(plan.max_tokens):
            pick = sampler.choose(logits)
            yield pick
            if step + 1 == plan.max_tokens:
                return
            output = self._model(
                input_ids=torch.tensor([[pick.token_id]], device=self._device),
                position_ids=torch.full((3, 1, 1), position + step, device=self._device),
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[0, -1]  # (V,)

    @torch.inference_mode()
    def prefill(self, input_ids: list[int], pixels: Pixels | None, cache: DynamicCache) -> tuple[torch.Tensor, int]:
        """Run a whole prompt through the model.

        Args:
            input_ids: S ids.
            pixels: the prompt's pictures, None without any.
            cache: empty; holds the prompt's keys and values afterwards.

        Returns:
            (V,) logits of the last position, and the position of the first generated token: S plus the prompt's rope
            delta, since a picture takes fewer positions than it has rows.
        """
        self._model.model.rope_deltas = None
        ids = torch.tensor([input_ids], device=self._device)  # (1, S)
        types = torch.tensor(self.processor.create_mm_token_type_ids([input_ids]), device=self._device)  # (1, S)
        grid = pixels.image_grid_thw.to(self._device) if pixels else None
        position_ids, delta = self._model.model.get_rope_index(ids, types, image_grid_thw=grid)  # (3, 1, S), (1, 1)
        output = self._model(
            input_ids=ids,
            position_ids=position_ids,
            mm_token_type_ids=types,
            pixel_values=pixels.pixel_values.to(self._device) if pixels else None,
            image_grid_thw=grid,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[0, -1], len(input_ids) + int(delta)


def _describe(model: str) -> EngineInfo:
    """Read what a local checkpoint folder says about itself; a hub id is the real model."""
    variant: Variant = _read_json(Path(model) / "glowl.json").get("variant", "full")
    text_config = _read_json(Path(model) / "config.json").get("text_config", {})
    return EngineInfo(
        name="glm",
        model="glm-4.6v-flash",
        variant=variant,
        context_tokens=text_config.get("max_position_embeddings", FULL_CONTEXT_TOKENS),
        max_images=MAX_IMAGES,
    )


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _warm_up_requests() -> list[GenerationRequest]:
    """One text and one picture question: the first forward of a process costs several times a later one."""
    buffer = io.BytesIO()
    Image.new("RGB", (336, 336), "gray").save(buffer, "PNG")
    picture = ImagePart(data=buffer.getvalue(), media_type="image/png", sha256="")
    sampling = SamplingParams(max_tokens=2)
    return [
        GenerationRequest((Message("user", parts),), sampling, request_id="warm-up")
        for parts in ((TextPart("Hi"),), (picture, TextPart("Hi")))
    ]
