"""The engine: one checkpoint in memory, requests in, streamed answers out.

In: a `GenerationRequest`. Out: deltas. Pictures are decoded and prompts tokenised in a pool of threads beside the one
thread that owns the model; there, `runner.py` answers several requests at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace

from engines.base import (
    Delta,
    Engine,
    EngineInfo,
    EngineOptions,
    EngineUnavailableError,
    GenerationRequest,
    Usage,
    generate,
)
from engines.owl2.loading import VISION_MODULES, load_model, resolve_folder
from engines.owl2.model import MPLUGOwl2ForConditionalGeneration
from engines.owl2.requests import Preparation, eos_token_ids_of, warm_up_requests
from engines.owl2.runner import Owl2Runner, PreparedRequest, Row, kv_shape
from engines.runtime.adapters import Adapters, load_adapters
from engines.runtime.batching import ContinuousBatch
from engines.runtime.devices import fit_context, resolve_device, resolve_dtype, size_batch
from engines.runtime.local_engine import LocalEngine
from engines.runtime.scheduler import Scheduler

_NUM_PREPARE_THREADS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """Everything `Owl2Engine.start` loads.

    Attributes:
        model: only the model thread may touch it.
        preparation: any thread may.
        eos_token_ids: tokens that end an answer.
        adapters: of the model; for the model thread, too.
    """

    model: MPLUGOwl2ForConditionalGeneration
    preparation: Preparation
    eos_token_ids: frozenset[int]
    adapters: Adapters


class Owl2Engine(LocalEngine[PreparedRequest, Row]):
    """mPLUG-Owl2 as an `Engine`.

    Args:
        options: how to load it.
    """

    def __init__(self, options: EngineOptions) -> None:
        super().__init__("owl2", options)
        self._loaded: LoadedCheckpoint | None = None
        self._pool = ThreadPoolExecutor(_NUM_PREPARE_THREADS, thread_name_prefix="owl2-prepare")

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: before it was started.
        """
        return self._get_loaded().preparation.info

    async def start(self) -> None:
        """Load the checkpoint on the model thread and answer two small requests, one of them with a picture.

        Raises:
            CheckpointError: if the folder is incomplete, or does not fit the model or together.
            AdapterError: if an adapter cannot be used.
            ValueError: if its config or an option asks for something that is not supported.
        """
        self._scheduler = Scheduler("owl2-model", self._options.max_queue)
        await self._scheduler.start(self._make_batch)
        for request in warm_up_requests():
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
        preparation = self._get_loaded().preparation
        assert self._scheduler is not None  # set before anything was loaded

        async def prepare() -> PreparedRequest:
            loop = asyncio.get_running_loop()
            plan = await loop.run_in_executor(self._pool, preparation.plan, request)
            pixels = await self._pictures.run_all(plan.images, preparation.to_pixels, request.caller)
            return await loop.run_in_executor(self._pool, preparation.assemble, request, plan, pixels)

        async with aclosing(self._scheduler.stream(prepare, request.caller)) as deltas:
            async for delta in deltas:
                yield delta

    async def count(self, request: GenerationRequest) -> Usage:
        """See `engines.base.CountsTokens`; nothing is decoded, and the model is not asked."""
        preparation = self._get_loaded().preparation
        return await asyncio.get_running_loop().run_in_executor(self._pool, preparation.count, request)

    async def aclose(self) -> None:
        """Stop the running generations, refuse the waiting ones and let go of the weights."""
        await super().aclose()
        self._loaded = None
        self._pool.shutdown(wait=False)

    def _get_loaded(self) -> LoadedCheckpoint:
        if self._loaded is None:
            raise EngineUnavailableError("the owl2 engine is not started, still loading, or closed")
        return self._loaded

    def _make_batch(self) -> ContinuousBatch[PreparedRequest, Row]:
        loaded = self.load()
        preparation, shape = loaded.preparation, kv_shape(loaded.model)
        limits, cache = size_batch("owl2", self._options, loaded.model.config.to_dict(), shape)
        context_tokens = fit_context(preparation.info.context_tokens, limits, shape)
        preparation = replace(preparation, info=replace(preparation.info, context_tokens=context_tokens))
        runner = Owl2Runner(
            loaded.model,
            preparation.processor.tokenizer,
            loaded.eos_token_ids,
            cache,
            limits.max_rows,
            loaded.adapters,
            max_tokens=limits.max_tokens,
        )
        self._loaded = replace(loaded, preparation=preparation)
        return self._to_batch(runner, limits)

    def _forget_warm_up(self) -> None:
        assert self._runner is not None
        self._runner.cache.clear()

    def load(self) -> LoadedCheckpoint:
        """Load weights and processor on this thread, without a batch: training prepares examples as serving does.

        Raises:
            CheckpointError: as `start`; the others likewise.
        """
        options = self._options
        device = resolve_device(options.device)
        dtype = resolve_dtype(options.dtype, device)
        folder = resolve_folder(options.model)
        model = load_model(
            folder,
            dtype=dtype,
            device=device,
            attn_implementation=options.attn_implementation,
            quantization=options.quantization,
        )
        base = options.model_name or options.model
        adapters = load_adapters(model, base, options.adapters, device, dtype, VISION_MODULES)
        numbers = f"{model.dtype}/{options.quantization}/{model.config._attn_implementation}"
        preparation = Preparation.of_checkpoint(folder, model.config, numbers, options.adapters)
        log.info("loaded %s (%s) on %s as %s", preparation.info.model_id, folder, model.device, model.dtype)
        eos_token_ids = eos_token_ids_of(preparation.processor, model.generation_config.eos_token_id)
        return LoadedCheckpoint(model, preparation, eos_token_ids, adapters)


def load(options: EngineOptions) -> Engine:
    """Make the engine; the weights load in its ``start``."""
    return Owl2Engine(options)
