"""What a machine allows at most: the matrix products of a decode step alone, and copies in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def products(weights: Sequence[Tensor], num_rows: int) -> Callable[[], object]:
    """Return the matrix products of some weights with rows of their width, and nothing else.

    Args:
        weights: a model's own, so that every one of them has to come from memory.
        num_rows: that are multiplied at a time.
    """
    inputs = {
        width: torch.randn((num_rows, width), device=weights[0].device, dtype=weights[0].dtype)
        for width in {weight.shape[1] for weight in weights}
    }

    @torch.inference_mode()
    def run() -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    return run


def copy_bandwidth(device: torch.device, clock: Callable[[Callable[[], object]], float]) -> float:
    """Measure how fast memory is copied; bytes per second, reading and writing counted.

    Args:
        device: whose memory.
        clock: times one run, in seconds.
    """
    size = 2**30 if device.type == "cuda" else 2**28
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / min(clock(lambda: target.copy_(source)) for _ in range(5))
