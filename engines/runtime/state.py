"""How an engine is now, for who asks for its metrics; and how long a model takes over a picture.

In: its scheduler, its runner's cache and its device. Out: an `EngineState`; seconds, told when they are known.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from engines.meters import EngineState
from engines.runtime.prefix_cache import CacheStats
from engines.runtime.scheduler import Scheduler

log = logging.getLogger(__name__)


class DeviceTimer:
    """Times work on the model's device without waiting for it: a GPU works on while Python goes on.

    Args:
        device: of the model.
        tell: takes the seconds, at once or when a later measurement finds that the device has come so far.
    """

    def __init__(self, device: torch.device, tell: Callable[[float], object]) -> None:
        self._is_cuda = device.type == "cuda"
        self._tell = tell
        self._open: deque[tuple[Any, Any]] = deque()

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Time the work that the block gives the device; none that fails."""
        if not self._is_cuda:
            began = time.perf_counter()
            yield
            self._tell(time.perf_counter() - began)
            return
        self.tell_ended()
        make: Any = torch.cuda.Event
        first, last = make(enable_timing=True), make(enable_timing=True)
        first.record()
        yield
        last.record()
        self._open.append((first, last))

    def tell_ended(self) -> None:
        """Tell what has ended meanwhile."""
        while self._open and self._open[0][1].query():
            first, last = self._open.popleft()
            self._tell(first.elapsed_time(last) / 1000)


def is_lost(device: torch.device) -> bool:
    """Whether a device refuses all work of this process, as a GPU does after an illegal memory access."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        log.error("the GPU takes no more work from this process: %s", error)
        return True
    return False


def state_of(scheduler: Scheduler[Any, Any] | None, stats: CacheStats, device: torch.device) -> EngineState:
    """Return the state of a loaded engine; may be called from any thread."""
    used, total = None, None
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used = total - free
    return EngineState(
        num_running=0 if scheduler is None else scheduler.num_running,
        num_waiting=0 if scheduler is None else scheduler.num_waiting,
        kv_usage=0.0 if scheduler is None else scheduler.kv_usage,
        num_vision_queries=stats.num_feature_hits + stats.num_feature_misses,
        num_vision_hits=stats.num_feature_hits,
        gpu_used_bytes=used,
        gpu_total_bytes=total,
        gpu_usage=_gpu_usage(device),
    )


def _gpu_usage(device: torch.device) -> float | None:
    """Ask the driver, if its Python module (nvidia-ml-py) is there: not every CUDA machine has it."""
    if device.type != "cuda" or find_spec("pynvml") is None:
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # a part of a GPU (MIG), or a container without the driver's library: NVML has many words for no
        return None
