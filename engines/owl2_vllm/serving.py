"""vLLM's asynchronous engine as the backend of `engine.py`.

In: a checkpoint and options. Out: a running vLLM whose steps come as `Step`. The one module that starts vLLM; what it
raises is turned into our errors here.
"""

from __future__ import annotations

import asyncio
import itertools
import shlex
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from vllm import AsyncEngineArgs
from vllm import SamplingParams as VllmSamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from engines.base import EngineOptions, GenerationFailedError, SamplingParams
from engines.owl2.config import MPLUGOwl2Config
from engines.owl2.requests import max_images_for
from engines.owl2.runner import PreparedRequest
from engines.owl2_vllm.config import engine_arguments, merge_arguments
from engines.owl2_vllm.processor import to_engine_input
from engines.owl2_vllm.steps import DIED, BackendGoneError, Observe, Step, picks_of
from engines.runtime.sampling import Sampler

# How often vLLM is asked whether its process is still there; it calls nobody.
_LOOK_EVERY_S: Final = 1.0
# Between vLLM's SIGTERM to its processes and its SIGKILL. Within `engines.http.app`'s bound for closing.
_CLOSE_S: Final = 2.0


class VllmBackend:
    """See `engines.owl2_vllm.engine.Backend`.

    Args:
        llm: started; belongs to this event loop.
        config: of the model.
    """

    def __init__(self, llm: AsyncLLM, config: MPLUGOwl2Config) -> None:
        self._llm = llm
        self._config = config
        self._numbers = itertools.count()
        self.max_rows: int = llm.vllm_config.scheduler_config.max_num_seqs
        self.context_tokens: int = llm.model_config.max_model_len
        self.numbers = f"vllm/{llm.model_config.dtype}/{llm.model_config.quantization}"

    async def stream(self, prepared: PreparedRequest, eos_token_ids: frozenset[int]) -> AsyncGenerator[Step, None]:
        """See `engines.owl2_vllm.engine.Backend.stream`."""
        # Packing pixels takes milliseconds.
        engine_input = await asyncio.to_thread(to_engine_input, prepared, self._config)
        sampling = sampling_of(prepared.sampling, prepared.max_tokens, eos_token_ids)
        outputs = self._llm.generate(engine_input, sampling, f"owl2-{next(self._numbers)}")
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    new = output.outputs[0]
                    picks = picks_of(new.token_ids, new.logprobs, prepared.sampling.top_logprobs)
                    yield Step(picks, output.num_cached_tokens or 0)
        except EngineDeadError as error:
            raise BackendGoneError(DIED) from error
        except EngineGenerateError as error:
            raise GenerationFailedError(f"vLLM gave up on this request: {error.__cause__ or error}") from error

    async def forget(self) -> None:
        """Drop what its caches hold."""
        await self._llm.reset_prefix_cache()
        await self._llm.reset_encoder_cache()

    async def ended(self) -> None:
        """See `engines.owl2_vllm.engine.Backend.ended`."""
        while not self._llm.errored:  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(_LOOK_EVERY_S)

    async def aclose(self) -> None:
        """End its processes."""
        await asyncio.to_thread(self._llm.shutdown, timeout=_CLOSE_S)


async def start_vllm(options: EngineOptions, folder: Path, config: MPLUGOwl2Config, observe: Observe) -> VllmBackend:
    """Start vLLM's processes and wait until the model is loaded.

    Args:
        options: what the server was given.
        folder: of the checkpoint.
        config: of its model.
        observe: called after vLLM's steps.

    Raises:
        ValueError: for an option that cannot be had.
    """
    words = shlex.split(options.vllm_args)
    device = "cpu" if current_platform.is_cpu() else "cuda"
    arguments = engine_arguments(options, folder, config, max_images_for(config), device)
    arguments = merge_arguments(arguments, words, _parse(words))
    # It takes as long as the weights do, in which the server has to say that it lives and loads.
    llm = await asyncio.to_thread(
        AsyncLLM.from_engine_args, AsyncEngineArgs(**arguments), stat_loggers=[_watch(observe)]
    )
    return VllmBackend(llm, config)


def sampling_of(params: SamplingParams, max_tokens: int, eos_token_ids: frozenset[int]) -> VllmSamplingParams:
    """Say how vLLM is to choose tokens; stop strings are found by us, in the text that is made by us."""
    is_greedy = Sampler(params).is_greedy
    return VllmSamplingParams(
        temperature=0.0 if is_greedy else params.temperature,
        top_p=1.0 if is_greedy else params.top_p,
        top_k=0 if is_greedy else params.top_k,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        repetition_penalty=params.repetition_penalty,
        # Callers may send any integer; vLLM reads -1 as none.
        seed=None if params.seed is None else params.seed % 2**63,
        max_tokens=max_tokens,
        stop_token_ids=sorted(eos_token_ids),
        logprobs=params.top_logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _parse(words: Sequence[str]) -> dict[str, Any]:
    if not words:
        return {}
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(prog="--vllm-args"))
    try:
        return vars(parser.parse_args(list(words)))
    except SystemExit as error:  # argparse has said on stderr what is wrong
        raise ValueError(f"vLLM does not take --vllm-args {shlex.join(words)!r}, see above") from error


def _watch(observe: Observe) -> type[StatLoggerBase]:
    """Make what vLLM calls after its steps."""

    class Watch(StatLoggerBase):
        """Tells the engine's meters."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                observe(
                    scheduler_stats.num_running_reqs, scheduler_stats.num_waiting_reqs, scheduler_stats.kv_cache_usage
                )

        def log_engine_initialized(self) -> None:
            pass

    return Watch
