"""GLM-4.6V-Flash in this process: one checkpoint in memory, requests in, streamed answers out.

In: a `GenerationRequest`. Out: `Delta`s as the model writes them. Text and pictures are prepared in a pool of threads
beside the one that owns the model; there, `runner.py` answers several requests at a time.
"""

from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from tokenizers import Tokenizer

from engines.adapter_names import MODEL_NAMES, check_adapter
from engines.base import (
    Delta,
    EngineInfo,
    EngineOptions,
    EngineUnavailableError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
    Usage,
    Variant,
    check_could_fit,
    fit_max_tokens,
)
from engines.boxes import BOX_END, BOX_START, BoxReader
from engines.glm.decoding import Answer
from engines.glm.loading import VISION_MODULES, load_model
from engines.glm.parsing import AnswerParser, BoxMarks, ReasoningSplitter, StreamDetokenizer, TokenBytes
from engines.glm.processor import load_processor
from engines.glm.prompts import check_names, least_texts, to_conversation, to_template_tools, with_tools_turn
from engines.glm.runner import GlmRunner, Pixels, PreparedRequest, Row, kv_shape
from engines.glm.thinking import sample_thinking
from engines.glm.token_bound import TokenBound
from engines.glm.tool_grammar import to_grammar
from engines.host_memory import total_bytes
from engines.image_header import fit_size
from engines.images import check_request, decode_image, picture_size, upright_size
from engines.json_schema import ANY_OBJECT, JsonSchemaError
from engines.revision import adapter_revisions, revision_of
from engines.runtime.adapters import load_adapters
from engines.runtime.batching import ContinuousBatch
from engines.runtime.constrained import Constraint, Grammar, GrammarCompiler
from engines.runtime.devices import fit_context, resolve_device, resolve_dtype, size_batch
from engines.runtime.fair_budget import FairBudget
from engines.runtime.lazy_constraint import LazyConstraint
from engines.runtime.local_engine import LocalEngine
from engines.runtime.prefix_cache import CacheScope
from engines.runtime.scheduler import Scheduler
from engines.token_costs import TokenCosts
from engines.tool_text import CALL, MARKS, CallReader
from engines.tools import ToolUse

# What GLM-4.6V-Flash, and other models of its architecture, call themselves.
_MODEL_TYPES = ("glm46v", "glm4v")
MAX_IMAGES = 16
MAX_SIDE_PX = 2048  # longer pictures are scaled down at decoding; costs no token under the pixel budget
PIXEL_BUDGET = 1_000_000  # pixels per picture, about 1300 tokens; vision attention is quadratic in them
MAX_ASPECT_RATIO = 200
DEFAULT_MAX_TOKENS = 1024
DEFAULT_MAX_TOKENS_THINKING = 4096  # thinking and answer share one budget
FULL_CONTEXT_TOKENS = 131_072
# Of the host's memory, for pictures that are decoded and wait for the model; 24 MB a megapixel.
_PIXEL_SHARE = 1 / 16
# Sides of the pictures to warm up with. A CPU computes every size with the same code; a GPU chooses by size.
_WARM_UP_SIDES_PX = {"cpu": (112,), "cuda": (336, 672, 1008)}
_WARM_UP_SECONDS = 30.0
# Longer conversations are tokenized in a thread of their own: 2 MB take over 1 s.
_LONG_TEXT_CHARS = 64 * 1024
# Part of every cache key: to be raised with any change to prompts.py, processor.py or images.py that changes inputs.
_PREPROCESS_VERSION = "2"

# A checkpoint whose chat template has no place for functions.
_TOOLS_IN_TEMPLATE = re.compile(r"\btools\b")

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
        grammar: what the answer is held to, if to anything.
    """

    input_ids: list[int]
    num_image_tokens: int
    max_tokens: int
    grammar: Grammar | None = None


class GlmEngine(LocalEngine[PreparedRequest, Row]):
    """One checkpoint in the layout of zai-org/GLM-4.6V-Flash.

    Args:
        options: which checkpoint, where, and how many requests may wait.

    Raises:
        ValueError: if the checkpoint is another model's, or its config cannot be read.
    """

    def __init__(self, options: EngineOptions) -> None:
        super().__init__("glm", options)
        self._info = replace(_describe(options.model), adapters=tuple(name for name, _ in options.adapters))
        self._pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="glm-prepare")
        # Long texts take seconds: they have one thread and one tokenizer of their own.
        self._long_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="glm-long-texts")
        # Encoding sanitised text toggles a flag on the tokenizer: two threads at once would corrupt each other's ids.
        self._tokenizer_lock = threading.Lock()
        self._long_tokenizer_lock = threading.Lock()
        self._pixels = FairBudget(int(total_bytes() * _PIXEL_SHARE))
        self._model: Any = None
        self._health: dict[str, str] = {}
        self._is_ready = False
        self._is_closed = False

    async def info(self) -> EngineInfo:
        """Describe the engine; the context is the checkpoint's own."""
        return self._info

    async def start(self) -> None:
        """Load the weights on the model thread and answer some small requests, to be warm afterwards.

        Raises:
            OSError: if the checkpoint is not there or not whole.
            ValueError: if an option asks for something that is not supported.
        """
        self._scheduler = Scheduler("glm-model", self._options.max_queue)
        await self._scheduler.start(self._make_batch)
        await self._warm_up(self._scheduler)
        self._is_ready = True

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer; see `engines.base.Engine.stream`.

        Raises:
            EngineUnavailableError: before `start` has returned, or after `aclose`.
            EngineOverloadedError: if every row is taken and ``max_queue`` requests wait already.
            TooManyImagesError: for more than `MAX_IMAGES` pictures.
            InvalidImageError: for a picture that does not decode or is over 200 times longer than wide.
            ContextLengthError: if the prompt leaves no room for an answer.
            JsonSchemaError: for a schema that an answer cannot be held to.
            UnknownAdapterError: for an adapter that was not loaded.
            GenerationFailedError: if the model raised.
        """
        if not self._is_ready:
            raise EngineUnavailableError("the engine is not ready: its weights are still loading, or it was closed")
        async with aclosing(self._answer(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def count(self, request: GenerationRequest) -> Usage:
        """See `engines.base.CountsTokens`; nothing is decoded, and the model is not asked."""
        if not self._is_ready:
            raise EngineUnavailableError("the engine is not ready: its weights are still loading, or it was closed")
        pool = self._long_pool if _is_long(request) else self._pool
        input_ids, num_image_tokens = await self._in_pool(lambda: self._to_prompt(request), pool)
        return Usage(prompt_tokens=len(input_ids), image_tokens=num_image_tokens)

    async def aclose(self) -> None:
        """Stop the running generations, refuse the waiting ones and let the weights go."""
        self._is_ready = False
        self._is_closed = True
        await super().aclose()
        self._pool.shutdown(wait=False)
        self._long_pool.shutdown(wait=False)
        self._model = None

    @property
    def health(self) -> dict[str, str]:
        """What was chosen at load: ``device``, ``dtype`` and ``attn_implementation``."""
        return dict(self._health)

    async def _answer(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        assert self._scheduler is not None
        async with AsyncExitStack() as held:
            prepare = partial(self.prepare, request, held)
            async with aclosing(self._scheduler.stream(prepare, request.caller)) as deltas:
                async for delta in deltas:
                    await held.aclose()  # the prompt was read, so its pixels are gone
                    yield delta

    async def _warm_up(self, scheduler: Scheduler[PreparedRequest, Row]) -> None:
        """Answer what every kind of request begins with, until all was seen or it takes too long."""
        assert self._runner is not None

        async def answer(request: GenerationRequest) -> None:
            async with aclosing(self._answer(request)) as deltas:
                async for _ in deltas:
                    pass

        sides_px = _WARM_UP_SIDES_PX.get(self._device.type, (112,))
        end = time.monotonic() + _WARM_UP_SECONDS
        for requests in _warm_up_requests(sides_px, scheduler.limits.max_rows):
            await asyncio.gather(*map(answer, requests))
            if time.monotonic() > end:
                log.warning("the warm-up took %d s and was cut short", _WARM_UP_SECONDS)
                break
        await scheduler.call(self._runner.cache.clear)

    # -- preparing, in the pool ---------------------------------------------------------------------------------------

    async def prepare(self, request: GenerationRequest, held: AsyncExitStack) -> PreparedRequest:
        """Check a request and turn it into model inputs; what can be refused is before any picture is decoded.

        Args:
            request: from a caller.
            held: closes when the pixels are needed no more.
        """
        pool = self._long_pool if _is_long(request) else self._pool
        plan = await self._in_pool(lambda: self.plan(request), pool)
        if request.images:
            num_bytes = plan.num_image_tokens * self.processor.bytes_per_image_token
            await held.enter_async_context(self._pixels.hold(num_bytes, request.caller))
        pictures = await self._pictures.run_all(request.images, self.patchify, request.caller)
        return await self._in_pool(lambda: self.assemble(plan, pictures, request))

    def assemble(self, plan: Plan, pictures: Sequence[Pixels], request: GenerationRequest) -> PreparedRequest:
        """Put what was prepared together."""
        if (model := self._model) is None:
            raise EngineUnavailableError("the engine is shutting down")
        return PreparedRequest.make(
            plan.input_ids,
            pictures,
            self.processor.image_token_id,
            model.model.get_rope_index,
            plan.max_tokens,
            sample_thinking(request.sampling, model.generation_config) if request.enable_thinking else request.sampling,
            replace(self._scope, caller=request.caller, adapter=request.adapter),
            enable_thinking=request.enable_thinking,
            picture_sizes=tuple(upright_size(image) for image in request.images),
            start_constraint=self._to_start(plan, request),
        )

    def _to_start(self, plan: Plan, request: GenerationRequest) -> Callable[[], Constraint] | None:
        """Return what begins to hold an answer to its grammar: at once, or at its first call if it may be words."""
        if (grammar := plan.grammar) is None:
            return None
        tool_use = request.sampling.tool_use
        if tool_use is None or tool_use.is_required:
            return partial(grammar.start, **self._asleep(request.enable_thinking), max_tokens=plan.max_tokens)
        to_id = self.processor.tokenizer.convert_tokens_to_ids
        return lambda: LazyConstraint(grammar, to_id(CALL), (to_id("<think>"), to_id("</think>")))

    def plan(self, request: GenerationRequest) -> Plan:
        """Render and tokenize a request, and check that it fits.

        Raises:
            TooManyImagesError: see `stream`.
            InvalidImageError: for what a picture's header shows.
            ContextLengthError: naming by how many tokens.
        """
        input_ids, num_image_tokens = self._to_prompt(request)
        default = DEFAULT_MAX_TOKENS_THINKING if request.enable_thinking else DEFAULT_MAX_TOKENS
        wanted = request.sampling.max_tokens
        max_tokens = fit_max_tokens(len(input_ids), wanted, default, self._info.context_tokens)
        return Plan(input_ids, num_image_tokens, max_tokens, self._compile(request.sampling))

    def _to_prompt(self, request: GenerationRequest) -> tuple[list[int], int]:
        """Return the prompt's ids, and how many of them are pictures'."""
        images = request.images
        check_adapter(request.adapter, self._info)
        if len(images) > MAX_IMAGES:
            raise TooManyImagesError(f"{len(images)} pictures were sent; this model accepts at most {MAX_IMAGES}.")
        check_request(images)
        num_rows = [self._num_rows(image) for image in images]
        conversation = to_conversation(request.messages, enable_thinking=request.enable_thinking)
        tools = to_template_tools(request.sampling.tool_use)
        check_names(conversation, tools, self.processor.tokenizer.chat_control_tokens)
        if self._token_bound is not None:
            check_could_fit(self._token_bound.least_tokens(least_texts(conversation)), self._info.context_tokens)
        input_ids = self.encode(
            conversation, num_rows, tools, enable_thinking=request.enable_thinking, is_long=_is_long(request)
        )
        return input_ids, sum(num_rows)

    def _compile(self, sampling: SamplingParams) -> Grammar | None:
        """Return what the answer is held to.

        Raises:
            JsonSchemaError: naming the field, if it cannot be held to that.
        """
        if sampling.json_schema is not None:
            return self._compiler.compile(sampling.json_schema)
        if (tool_use := sampling.tool_use) is None:
            return None
        to_id = self.processor.tokenizer.convert_tokens_to_ids
        mark_ids = {mark: to_id(mark) for mark in MARKS}
        try:
            return self._compiler.compile_lark(to_grammar(tool_use, mark_ids))
        except JsonSchemaError as error:
            try:
                return self._compiler.compile_lark(to_grammar(tool_use, mark_ids, is_relaxed=True))
            except JsonSchemaError:
                error.param = "tools"
                raise error from None

    def _asleep(self, enable_thinking: bool) -> dict[str, int | None]:
        """Say between which tokens a schema does not hold: a model that thinks writes both marks itself."""
        if not enable_thinking:
            return {"asleep_until": None}
        to_id = self.processor.tokenizer.convert_tokens_to_ids
        return {"asleep_from": to_id("<think>"), "asleep_until": to_id("</think>")}

    def encode(
        self,
        conversation: list[dict[str, Any]],
        num_rows: list[int],
        tools: list[dict[str, Any]] | None = None,
        *,
        enable_thinking: bool,
        is_long: bool = False,
    ) -> list[int]:
        """Render a conversation with the checkpoint's template and tokenize it.

        Args:
            conversation: as `engines.glm.prompts.to_conversation` makes it.
            num_rows: placeholders of each picture, in order.
            tools: functions that may be called, as `engines.glm.prompts.to_template_tools` writes them.
            enable_thinking: False tells the model not to think.
            is_long: use the tokenizer for long texts, so that it takes others no time.

        Returns:
            S ids. Control tokens inside callers' text come as plain text.
        """
        if tools is not None and not _TOOLS_IN_TEMPLATE.search(str(self.processor.chat_template)):
            conversation, tools = with_tools_turn(conversation, tools), None
        tokenizer = self._long_tokenizer if is_long else self.processor.tokenizer
        with self._long_tokenizer_lock if is_long else self._tokenizer_lock:
            ids = tokenizer.apply_chat_template(
                conversation,
                tools=tools,
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
        width, height = picture_size(image)
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise InvalidImageError(
                f"A picture of {width}x{height} pixels is too long: the longer side may be at most {MAX_ASPECT_RATIO} "
                "times the shorter one.",
                param=image.param or None,
            )
        return self.processor.num_image_tokens(*fit_size(width, height, MAX_SIDE_PX), self._image_size)

    def patchify(self, image: ImagePart, is_wanted: Callable[[], bool] = lambda: True) -> Pixels:
        """Turn one encoded picture into patches under the pixel budget.

        Raises:
            InvalidImageError: if it does not decode.
            DecodeGoneError: if it is not wanted any more.
        """
        picture = decode_image(image, max_side_px=MAX_SIDE_PX, seen_pixels=PIXEL_BUDGET, is_wanted=is_wanted)
        batch = self.processor.image_processor(images=[picture], size=self._image_size, return_tensors="pt")
        return Pixels(batch["pixel_values"], batch["image_grid_thw"], self.processor.image_processor.merge_size)

    async def _in_pool(self, function: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        if self._is_closed:
            raise EngineUnavailableError("the engine is shutting down")
        return await asyncio.get_running_loop().run_in_executor(pool or self._pool, function)

    def load(self) -> Any:
        """Load weights and processor on this thread, without a batch: training prepares examples as serving does.

        Returns:
            The model, in evaluation mode.

        Raises:
            OSError: as `start`; ValueError likewise.
        """
        self._load()
        return self._model

    # -- on the model thread ------------------------------------------------------------------------------------------

    def _make_batch(self) -> ContinuousBatch[PreparedRequest, Row]:
        self._load()
        shape = kv_shape(self._model)
        limits, cache = size_batch("glm", self._options, self._model.config.to_dict(), shape)
        context_tokens = fit_context(self._info.context_tokens, limits, shape)
        self._info = replace(self._info, context_tokens=context_tokens)
        runner = GlmRunner(
            self._model,
            self.make_answer,
            cache,
            limits.max_rows,
            self._adapters,
            max_tokens=limits.max_tokens,
        )
        return self._to_batch(runner, limits)

    def _load(self) -> None:
        options = self._options
        self.processor = load_processor(options.model)
        tokenizer = self.processor.tokenizer
        self._token_bound = TokenBound.of(tokenizer.backend_tokenizer)
        self._long_tokenizer = copy.deepcopy(tokenizer)
        # The decoding copy is never reconfigured, so it needs no lock.
        self._detokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._token_bytes = TokenBytes(self._detokenizer)
        self._image_size = _image_size(options.pixel_budget or PIXEL_BUDGET, self.processor.image_processor.size)
        self._device = resolve_device(options.device)
        dtype = resolve_dtype(options.dtype, self._device)
        self._model, attention = load_model(
            options.model, self._device, dtype, options.attn_implementation, options.quantization
        )
        base = options.model_name or options.model
        self._adapters = load_adapters(self._model, base, options.adapters, self._device, dtype, VISION_MODULES)
        self._health = {"device": str(self._device), "dtype": str(dtype), "attn_implementation": attention}
        log.info("glm loaded from %s: %s", options.model, self._health)
        self._scope = CacheScope(
            caller="",
            model=options.model,
            dtype=f"{dtype}/{options.quantization}/{attention}",
            preprocess=f"{_PREPROCESS_VERSION}/pil/{self._image_size['longest_edge'] // 2}",
        )
        stop_ids = _as_list(self._model.config.get_text_config().eos_token_id)
        stop_ids += _as_list(self._model.generation_config.eos_token_id)
        self._stop_ids = frozenset(stop_ids)
        num_logits = self._model.config.get_text_config().vocab_size
        self._compiler = GrammarCompiler(tokenizer, num_logits, self._stop_ids)
        images = self.processor.image_processor
        how = f"{self._scope.dtype}/{self._scope.preprocess}"
        self._info = replace(
            self._info,
            costs=TokenCosts(
                DEFAULT_MAX_TOKENS,
                DEFAULT_MAX_TOKENS_THINKING,
                cell_px=images.patch_size * images.merge_size,
                **self._image_size,
                max_side_px=MAX_SIDE_PX,
            ),
            context_tokens=self._model.config.get_text_config().max_position_embeddings,
            revision=revision_of([("", options.model), *options.adapters], how),
            adapter_revisions=adapter_revisions(options.model, options.adapters, how),
        )

    def make_parser(
        self,
        stop: tuple[str, ...] = (),
        picture_sizes: Sequence[tuple[int, int]] = (),
        tool_use: ToolUse | None = None,
    ) -> AnswerParser:
        """Make the parser for one answer; ids are resolved by name, since every checkpoint numbers them its own way."""
        to_id = self.processor.tokenizer.convert_tokens_to_ids
        box_ids = to_id(BOX_START), to_id(BOX_END)

        def make_detokenizer() -> StreamDetokenizer:
            return StreamDetokenizer(self._detokenizer)

        boxes = BoxMarks(*box_ids, BoxReader(lambda: picture_sizes), make_detokenizer)
        splitter = ReasoningSplitter(to_id("<think>"), to_id("</think>"), box_ids)
        calls = None if tool_use is None else CallReader(tool_use)
        return AnswerParser(splitter, make_detokenizer, stop, boxes, calls, {to_id(mark): mark for mark in MARKS})

    def make_answer(self, job: PreparedRequest) -> Answer:
        """Make what turns one request's tokens into deltas."""
        parser = self.make_parser(job.sampling.stop, job.picture_sizes, job.sampling.tool_use)
        return Answer(parser, self._token_bytes, self._stop_ids, job.max_tokens)


def _is_long(request: GenerationRequest) -> bool:
    tools = () if request.sampling.tool_use is None else request.sampling.tool_use.tools
    num_chars = sum(len(tool.parameters) + len(tool.description) for tool in tools)
    return num_chars + sum(len(message.text) for message in request.messages) > _LONG_TEXT_CHARS


def _describe(model: str) -> EngineInfo:
    """Read what a local checkpoint folder says about itself; a hub id is the real model.

    Raises:
        ValueError: if it is another model's.
    """
    variant: Variant = _read_json(Path(model) / "glowl.json").get("variant", "full")
    config_file = Path(model) / "config.json"
    config = _read_json(config_file)
    if config_file.is_file() and config.get("model_type") not in _MODEL_TYPES:
        raise ValueError(f"{config_file}: model_type is {config.get('model_type')!r}, not {' or '.join(_MODEL_TYPES)}")
    text_config = config.get("text_config", {})
    return EngineInfo(
        name="glm",
        model=MODEL_NAMES["glm"],
        variant=variant,
        context_tokens=text_config.get("max_position_embeddings", FULL_CONTEXT_TOKENS),
        max_images=MAX_IMAGES,
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no JSON object ({error})") from error


def _image_size(pixel_budget: int, size: Mapping[str, int]) -> dict[str, int]:
    """Lower the processor's bounds to a budget; its unit is pixels of two frames, as if a picture were a short film.

    Raises:
        ValueError: if that leaves less than the smallest picture has.
    """
    if 2 * pixel_budget < size["shortest_edge"]:
        raise ValueError(f"a pixel budget of {pixel_budget} is below the {size['shortest_edge'] // 2} that are needed")
    return {"shortest_edge": size["shortest_edge"], "longest_edge": min(2 * pixel_budget, size["longest_edge"])}


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _warm_up_requests(sides_px: Sequence[int], max_rows: int) -> Iterator[list[GenerationRequest]]:
    """Make groups of requests: each kind of prefill alone, a grammar, and decode steps of one row, two, and so on."""

    def ask(*parts: TextPart | ImagePart, json_schema: str | None = None) -> GenerationRequest:
        sampling = SamplingParams(max_tokens=4, json_schema=json_schema)
        return GenerationRequest((Message("user", parts),), sampling, request_id="warm-up")

    yield [ask(TextPart("Hi"))]
    # The first mask of a grammar is the slowest, since the compiler works lazily.
    yield [ask(TextPart("Hi"), json_schema=ANY_OBJECT)]
    for side in sides_px:
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), "gray").save(buffer, "PNG")
        yield [ask(ImagePart(buffer.getvalue(), "image/png", sha256=""), TextPart("Hi"))]
    num_rows = 2
    while num_rows <= max_rows:
        yield [ask(TextPart(f"Hi {row}")) for row in range(num_rows)]
        num_rows *= 2
