"""The engine: vLLM's asynchronous engine behind our border, requests in, streamed answers out.

In: a `GenerationRequest`. Out: deltas. Prompts and pictures are prepared here, as `engines.owl2` does it; vLLM runs in
processes of its own and sees ids and pixels; text is made here of the ids that come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from engines.base import (
    CallerWait,
    Delta,
    Engine,
    EngineInfo,
    EngineOptions,
    EngineOverloadedError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    Usage,
    generate,
    hash_caller,
)
from engines.meters import EngineMeters, EngineState
from engines.owl2.checks import read_config
from engines.owl2.config import MPLUGOwl2Config
from engines.owl2.decoding import Answer
from engines.owl2.loading import check_files, resolve_folder
from engines.owl2.requests import Preparation, eos_token_ids_of, warm_up_requests
from engines.owl2.runner import PreparedRequest
from engines.owl2_vllm.plugin import is_installed
from engines.owl2_vllm.steps import DIED, BackendGoneError, Observe, Step
from engines.runtime.fair_budget import FairBudget
from engines.runtime.picture_stage import PictureStage

_NUM_PREPARE_THREADS = 4

log = logging.getLogger(__name__)


class Backend(Protocol):
    """What runs the model: vLLM, in `serving.py`.

    Attributes:
        max_rows: answers side by side.
        context_tokens: prompt and answer together, at most what the model was made for.
        numbers: what its values depend on beside the weights.
    """

    max_rows: int
    context_tokens: int
    numbers: str

    def stream(self, prepared: PreparedRequest, eos_token_ids: frozenset[int]) -> AsyncGenerator[Step, None]:
        """Generate; closing the generator frees the row.

        Raises:
            BackendGoneError: if its process has ended.
            GenerationFailedError: if it gave up on this request.
        """
        ...

    async def forget(self) -> None:
        """Drop what its caches hold."""
        ...

    async def ended(self) -> None:
        """Wait until its process ends, whether somebody asks it anything or not."""
        ...

    async def aclose(self) -> None:
        """End its processes."""
        ...


StartBackend = Callable[[EngineOptions, Path, MPLUGOwl2Config, Observe], Awaitable[Backend]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything `Owl2VllmEngine.start` loads.

    Attributes:
        backend: belongs to the event loop.
        preparation: any thread may use it.
        eos_token_ids: tokens that end an answer.
        turns: of callers at rows of the batch.
    """

    backend: Backend
    preparation: Preparation
    eos_token_ids: frozenset[int]
    turns: FairBudget


class Owl2VllmEngine:
    """mPLUG-Owl2 on vLLM as an `Engine`.

    Args:
        options: how to load it.
        start_backend: starts vLLM.
    """

    def __init__(self, options: EngineOptions, start_backend: StartBackend) -> None:
        self._options = options
        self._start_backend = start_backend
        self._starting: asyncio.Future[Backend] | None = None
        self._loaded: Loaded | None = None
        self._has_died = False
        self._num_wanted = 0  # streams whose caller is still there
        self._waits: dict[int, tuple[str, float]] = {}
        self._numbers = itertools.count()
        self._pool = ThreadPoolExecutor(_NUM_PREPARE_THREADS, thread_name_prefix="owl2-prepare")
        self.meters = EngineMeters()
        self._pictures = PictureStage("owl2-pictures", tell=self.meters.decoded)
        self._state = EngineState()

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: before it was started.
        """
        return self._get_loaded().preparation.info

    async def start(self) -> None:
        """Check the checkpoint, start vLLM with it and answer two small requests, one of them with a picture.

        Raises:
            CheckpointError: if the folder is incomplete, or does not fit the model or together.
            ValueError: if its config or an option asks for something that is not supported.
        """
        folder, config = await asyncio.to_thread(_checked, self._options)
        self._starting = asyncio.ensure_future(self._start_backend(self._options, folder, config, self._observe))
        backend = await asyncio.shield(self._starting)
        preparation = await asyncio.to_thread(Preparation.of_checkpoint, folder, config, backend.numbers)
        preparation = replace(preparation, info=replace(preparation.info, context_tokens=backend.context_tokens))
        eos = eos_token_ids_of(preparation.processor, await asyncio.to_thread(_eos_token_id, folder))
        self._loaded = Loaded(backend, preparation, eos, FairBudget(backend.max_rows))
        log.info("loaded %s (%s) on vLLM as %s", preparation.info.model_id, folder, backend.numbers)
        for request in warm_up_requests():
            await generate(self, request)
        await backend.forget()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer; closing the generator frees its row before one of vLLM's next steps.

        Raises:
            EngineUnavailableError: before `start`, after `aclose`, and if vLLM's process has ended.
            EngineOverloadedError: if too many requests are waiting.
            InvalidRequestError: or one of its kinds, if the request cannot be answered as it is.
            GenerationFailedError: if the model raised.
        """
        loaded = self._get_loaded()
        if self._num_wanted >= loaded.backend.max_rows + self._options.max_queue:
            raise EngineOverloadedError(f"{self._options.max_queue} requests are waiting for this engine already")
        self._num_wanted += 1
        try:
            prepared = await self._prepare(loaded.preparation, request)
            async with self._turn(loaded.turns, request.caller), aclosing(self._answer(loaded, prepared)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._num_wanted -= 1

    async def aclose(self) -> None:
        """Stop the running generations and end vLLM's processes; one that is starting cannot be broken off."""
        self._loaded = None
        self._pool.shutdown(wait=False)
        self._pictures.close()
        starting, self._starting = self._starting, None
        if starting is not None:
            with contextlib.suppress(Exception):  # `start` has raised it already
                backend = await asyncio.shield(starting)
                await backend.aclose()

    async def ended(self) -> str:
        """See `engines.base.CanEnd`."""
        await self._get_loaded().backend.ended()
        self._has_died = True
        return DIED

    def trouble(self) -> str:
        """See `engines.base.HasTrouble`."""
        return DIED if self._has_died else self._pictures.trouble()

    def waiting(self) -> tuple[CallerWait, ...]:
        """See `engines.base.HasWaiting`."""
        now = time.monotonic()
        since: dict[str, list[float]] = {}
        for caller, at in self._waits.values():
            since.setdefault(caller, []).append(at)
        return tuple(
            CallerWait(hash_caller(caller), len(times), now - min(times), now - min(times))
            for caller, times in since.items()
        )

    def state(self) -> EngineState:
        """See `engines.meters.HasMeters`."""
        return self._state

    def _observe(self, num_running: int, num_waiting: int, kv_usage: float) -> None:
        self._state = EngineState(
            num_running=num_running, num_waiting=num_waiting + len(self._waits), kv_usage=kv_usage
        )
        if num_running:
            self.meters.stepped(num_running)

    def _get_loaded(self) -> Loaded:
        if self._has_died:
            raise EngineUnavailableError(DIED)
        if self._loaded is None:
            raise EngineUnavailableError("the owl2 engine is not started, still loading, or closed")
        return self._loaded

    async def _prepare(self, preparation: Preparation, request: GenerationRequest) -> PreparedRequest:
        loop = asyncio.get_running_loop()
        plan = await loop.run_in_executor(self._pool, preparation.plan, request)
        pixels = await self._pictures.run_all(plan.images, preparation.to_pixels, request.caller)
        return await loop.run_in_executor(self._pool, preparation.assemble, request, plan, pixels)

    @asynccontextmanager
    async def _turn(self, turns: FairBudget, caller: str) -> AsyncIterator[None]:
        """Wait for a row of the batch; vLLM itself knows no callers."""
        number = next(self._numbers)
        self._waits[number] = caller, time.monotonic()
        try:
            async with turns.hold(1, caller):
                del self._waits[number]
                yield
        finally:
            self._waits.pop(number, None)

    async def _answer(self, loaded: Loaded, prepared: PreparedRequest) -> AsyncGenerator[Delta, None]:
        tokenizer = loaded.preparation.processor.tokenizer
        answer = Answer(tokenizer, prepared.sampling, loaded.eos_token_ids, prepared.max_tokens)
        num_cached = 0
        try:
            async with aclosing(loaded.backend.stream(prepared, loaded.eos_token_ids)) as steps:
                async for step in steps:
                    num_cached = max(num_cached, step.num_cached_tokens)
                    for pick in step.picks:
                        if (delta := answer.push(pick)) is not None:
                            yield delta
                        if answer.finish_reason is not None:
                            break
                    if answer.finish_reason is not None:
                        break
        except BackendGoneError:
            self._has_died = self._loaded is not None  # unless it was told to end
            raise
        if answer.finish_reason is None:
            raise GenerationFailedError("vLLM ended its answer without saying why")
        sequence = prepared.sequence
        usage = Usage(
            prompt_tokens=len(sequence),
            completion_tokens=answer.num_tokens,
            image_tokens=sum(span.length for span in sequence.images),
            cached_tokens=num_cached,
        )
        yield answer.finish(usage)


def load(options: EngineOptions) -> Engine:
    """Make the engine; vLLM starts in its ``start``.

    Raises:
        ValueError: if this distribution is not installed where vLLM is: its processes would not know the model.
    """
    if not is_installed():
        raise ValueError("glowl-owl2-vllm is not installed beside vLLM: pip install ./engines/owl2_vllm")
    from engines.owl2_vllm.serving import start_vllm

    return Owl2VllmEngine(options, start_vllm)


def _checked(options: EngineOptions) -> tuple[Path, MPLUGOwl2Config]:
    folder = resolve_folder(options.model)
    config = read_config(folder)
    check_files(folder, config)
    return folder, config


def _eos_token_id(folder: Path) -> int | list[int] | None:
    from transformers import GenerationConfig

    with contextlib.suppress(OSError):  # optional, as for our own engine
        return GenerationConfig.from_pretrained(folder).eos_token_id
    return None
