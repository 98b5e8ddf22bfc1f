"""What an engine server measures: its families, where its parts report, and what it is asked for.

In: what parts of an engine report as it happens, and its `EngineState` when somebody asks. Out: the text of the
server's ``/metrics``. No torch here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from engines.base import Delta, GenerationRequest, Usage
from engines.metrics import SECONDS, SHORT, Family, Looked, Registry, Values

log = logging.getLogger(__name__)

_TOKENS: Final = (1.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 16384.0)
_ROWS: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
_STEP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

REQUESTS: Final = Family(
    "glowl_engine_requests_total",
    "counter",
    "Requests that have ended: with a finish reason, with an `error`, or since the client was `gone`.",
    ("outcome",),
)
FIRST_TOKEN: Final = Family(
    "glowl_engine_time_to_first_token_seconds", "histogram", "From a request to its first text.", (), SECONDS
)
LATENCY: Final = Family(
    "glowl_engine_e2e_request_latency_seconds", "histogram", "From a request to the end of its answer.", (), SECONDS
)
TOKEN_TIME: Final = Family(
    "glowl_engine_time_per_output_token_seconds",
    "histogram",
    "Time of an answer after its first text, by token.",
    (),
    _STEP,
)
PROMPT_TOKENS: Final = Family("glowl_engine_prompt_tokens_total", "counter", "Tokens of prompts.")
GENERATION_TOKENS: Final = Family("glowl_engine_generation_tokens_total", "counter", "Tokens that were written.")
PREFIX_QUERIES: Final = Family(
    "glowl_engine_prefix_cache_queries_total", "counter", "Tokens of prompts that were looked up in the prefix cache."
)
PREFIX_HITS: Final = Family(
    "glowl_engine_prefix_cache_hits_total", "counter", "Tokens of prompts that were found there and not computed."
)
BATCH: Final = Family(
    "glowl_engine_batch_rows", "histogram", "Answers that go on together in a decode step.", (), _ROWS
)
DECODE: Final = Family(
    "glowl_picture_decode_seconds", "histogram", "From a picture's bytes to the model's input.", (), SHORT
)
ENCODE: Final = Family(
    "glowl_picture_encode_seconds", "histogram", "A picture's way through the vision tower.", (), SHORT
)
PICTURE_TOKENS: Final = Family(
    "glowl_picture_tokens", "histogram", "Tokens of a prompt that a picture took.", (), _TOKENS
)
OWN: Final = (
    REQUESTS, FIRST_TOKEN, LATENCY, TOKEN_TIME, PROMPT_TOKENS, GENERATION_TOKENS, PREFIX_QUERIES, PREFIX_HITS,
    BATCH, DECODE, ENCODE, PICTURE_TOKENS,
)  # fmt: skip

READY: Final = Family("glowl_engine_ready", "gauge", "1 if the engine is loaded and answers.")
RUNNING: Final = Family("glowl_engine_num_requests_running", "gauge", "Requests that are being read or answered.")
WAITING: Final = Family("glowl_engine_num_requests_waiting", "gauge", "Requests that are prepared or wait for a row.")
KV_USAGE: Final = Family(
    "glowl_engine_kv_cache_usage_ratio",
    "gauge",
    "Part of the room for keys and values that is promised, 0 to 1.",
    over="max",
)
VISION_QUERIES: Final = Family(
    "glowl_engine_vision_cache_queries_total", "counter", "Pictures that were looked up in the vision cache."
)
VISION_HITS: Final = Family(
    "glowl_engine_vision_cache_hits_total", "counter", "Pictures that were found there and not encoded."
)
GPU_MEMORY: Final = Family("glowl_gpu_memory_used_bytes", "gauge", "Memory of the GPU that is used, by whomever.")
GPU_TOTAL: Final = Family("glowl_gpu_memory_total_bytes", "gauge", "Memory of the GPU.")
GPU_USE: Final = Family(
    "glowl_gpu_utilization_ratio",
    "gauge",
    "Part of the time in which the GPU had work, where its driver says.",
    over="max",
)
SEEN: Final = (READY, RUNNING, WAITING, KV_USAGE, VISION_QUERIES, VISION_HITS, GPU_MEMORY, GPU_TOTAL, GPU_USE)
ENGINE: Final = (*OWN, *SEEN)


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine as it is now; what is None is not known, or there is none.

    Attributes:
        num_running: requests that are read or answered.
        num_waiting: requests before that.
        kv_usage: part of the tokens that may be held side by side, 0 to 1.
        num_vision_queries: pictures looked up since the start.
        num_vision_hits: pictures found.
        gpu_used_bytes: by all processes.
        gpu_total_bytes: there are.
        gpu_usage: part of the last moments in which the GPU worked, 0 to 1.
    """

    num_running: int | None = None
    num_waiting: int | None = None
    kv_usage: float | None = None
    num_vision_queries: int | None = None
    num_vision_hits: int | None = None
    gpu_used_bytes: int | None = None
    gpu_total_bytes: int | None = None
    gpu_usage: float | None = None


class EngineMeters:
    """Counts and times what an engine does; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._looked = Looked(SEEN)
        self._registry = Registry(OWN, self._looked)
        histogram, counter = self._registry.histogram, self._registry.counter
        self.stepped = histogram(BATCH).observe
        self.decoded = histogram(DECODE).observe
        self.encoded = histogram(ENCODE).observe
        self._first_token = histogram(FIRST_TOKEN).observe
        self._latency = histogram(LATENCY).observe
        self._token_time = histogram(TOKEN_TIME).observe
        self._picture_tokens = histogram(PICTURE_TOKENS).observe
        self._requests = counter(REQUESTS)
        self._prompt_tokens = counter(PROMPT_TOKENS).inc
        self._generation_tokens = counter(GENERATION_TOKENS).inc
        self._prefix_queries = counter(PREFIX_QUERIES).inc
        self._prefix_hits = counter(PREFIX_HITS).inc

    def expose(self, state: EngineState, *, is_ready: bool, accept: str = "") -> tuple[bytes, str]:
        """Return what Prometheus reads, and its content type."""
        found = (
            *(is_ready, state.num_running, state.num_waiting, state.kv_usage),
            *(state.num_vision_queries, state.num_vision_hits),
            *(state.gpu_used_bytes, state.gpu_total_bytes, state.gpu_usage),
        )
        values: Values = {
            family.name: [((), float(value))] for family, value in zip(SEEN, found, strict=True) if value is not None
        }
        self._looked.values = values
        return self._registry.expose(accept)

    async def follow(
        self, deltas: AsyncGenerator[Delta, None], request: GenerationRequest
    ) -> AsyncGenerator[Delta, None]:
        """Pass an answer on, and count how it ends."""
        began, first_at, outcome, usage = time.perf_counter(), None, "gone", None
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    if first_at is None and delta.text:
                        first_at = time.perf_counter()
                    if delta.finish_reason is not None:
                        outcome, usage = delta.finish_reason, delta.usage
                    yield delta
        except Exception:
            outcome = "error"
            raise
        finally:
            self._ended(began, first_at, outcome, usage, len(request.images))
            _write_down(began, first_at, outcome, usage, len(request.images))

    def _ended(self, began: float, first_at: float | None, outcome: str, usage: Usage | None, num_images: int) -> None:
        now = time.perf_counter()
        self._requests.labels(outcome).inc()
        if first_at is not None:
            self._first_token(first_at - began)
        if usage is None:
            return
        self._latency(now - began)
        self._prompt_tokens(usage.prompt_tokens)
        self._generation_tokens(usage.completion_tokens)
        self._prefix_queries(usage.prompt_tokens)
        self._prefix_hits(usage.cached_tokens)
        if first_at is not None and usage.completion_tokens > 1:
            self._token_time((now - first_at) / (usage.completion_tokens - 1))
        if num_images and usage.image_tokens:
            self._picture_tokens(usage.image_tokens / num_images)


def _write_down(began: float, first_at: float | None, outcome: str, usage: Usage | None, num_images: int) -> None:
    fields: dict[str, object] = {"duration_ms": round((time.perf_counter() - began) * 1000), "num_images": num_images}
    if first_at is not None:
        fields["first_text_ms"] = round((first_at - began) * 1000)
    if usage is not None:
        fields |= {"prompt_tokens": usage.prompt_tokens, "cached_tokens": usage.cached_tokens}
        fields["completion_tokens"] = usage.completion_tokens
    log.info("an answer has ended: %s", outcome, extra={"fields": fields})


@runtime_checkable
class HasMeters(Protocol):
    """An engine that reports more than its server sees."""

    meters: EngineMeters

    def state(self) -> EngineState:
        """Say how it is now; quick, from any thread."""
        ...
