"""The second tier of the prefix cache: pinned host memory, which a GPU copies to and from beside its own work.

In: tensors on the device that had to make room. Out: equal tensors on the device again. On the CPU there is no such
tier: the copies would lie in the same memory as what they copy. Belongs to the model thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engines.host_memory import available_bytes

BLOCK_BYTES = 2**20
# Pinning takes the driver tens of milliseconds and a system call, so it is done for many blocks at a time.
_BLOCKS_PER_SLAB = 128
# How much larger than the device's share the host's may be, and how much of the free host memory it may take.
_DEVICE_BUDGETS = 4
_FREE_SHARE = 1 / 4

log = logging.getLogger(__name__)


class Lane(Protocol):
    """The order in which the device does its work and the copies."""

    def down(self, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Copies from the device inside run beside what comes next, after everything that was asked for before.

        The memory of ``tensors`` is not given to anybody else before they are through.
        """
        ...

    def before_up(self) -> None:
        """Let what comes next wait for all copies from the device: it reads what they wrote."""
        ...


class SideStream:
    """`Lane` with a CUDA stream of its own.

    Both directions wait for each other: a copy down for every copy up that was asked for before it, since it runs after
    everything on the current stream; a copy up by `before_up`. So a block may be reused at once in either direction.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def down(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Wait for the current stream, then copy beside it."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        for tensor in tensors:
            tensor.record_stream(self._stream)

    def before_up(self) -> None:
        """Let the current stream wait; the host goes on."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a tensor looked like."""

    shape: torch.Size
    dtype: torch.dtype
    num_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Tensors in the store: one after another, as bytes, through a list of blocks."""

    layouts: tuple[_Layout, ...]
    blocks: tuple[Tensor, ...]


class HostStore:
    """A bounded number of blocks, equal in size, so that memory cannot fragment and its sum is what it says.

    Args:
        max_bytes: bound; rounded down to whole blocks.
        device: where tensors come from and go back to.
        lane: orders the copies.
        is_pinned: without pinning a copy blocks the host.
        block_bytes: size of a block.
    """

    def __init__(
        self,
        max_bytes: int,
        device: torch.device,
        lane: Lane,
        *,
        is_pinned: bool = True,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._device = device
        self._lane = lane
        self._is_pinned = is_pinned
        self._block_bytes = block_bytes
        self._num_left = max_bytes // block_bytes  # not allocated yet
        self._free: list[Tensor] = []
        self._num_used = 0

    @classmethod
    def beside(cls, device: torch.device, device_bytes: int) -> HostStore | None:
        """Make the store that belongs to a budget on a device; None on a device that needs none.

        Args:
            device: of the model.
            device_bytes: the budget there. The host's is up to four times as much, and at most a quarter of the host
                memory that is free now.
        """
        if device.type != "cuda":
            return None
        max_bytes = min(_DEVICE_BUDGETS * device_bytes, int(available_bytes() * _FREE_SHARE))
        if max_bytes < BLOCK_BYTES:
            return None
        log.info(
            "prefix cache: %d MB on the device, up to %d MB pinned on the host", device_bytes >> 20, max_bytes >> 20
        )
        return cls(max_bytes, device, SideStream(device))

    @property
    def max_bytes(self) -> int:
        """The bound; it shrinks if the host turns out to have less to pin."""
        return (self._num_left + len(self._free) + self._num_used) * self._block_bytes

    @property
    def num_bytes(self) -> int:
        """What is in use, in whole blocks."""
        return self._num_used * self._block_bytes

    def size_of(self, num_bytes: int) -> int:
        """How much of the bound so many bytes take."""
        return -(-num_bytes // self._block_bytes) * self._block_bytes

    @torch.inference_mode()
    def put(self, tensors: Sequence[Tensor]) -> Stored | None:
        """Copy tensors here; they may be let go at once.

        Args:
            tensors: contiguous, on the device.

        Returns:
            What to get them back with; None if there is no room.
        """
        layouts = tuple(_Layout(tensor.shape, tensor.dtype, tensor.nbytes) for tensor in tensors)
        blocks = self._take(self.size_of(sum(layout.num_bytes for layout in layouts)) // self._block_bytes)
        if blocks is None:
            return None
        stored = Stored(layouts, blocks)
        with self._lane.down(tensors):
            for pieces, tensor in zip(self._pieces(stored), tensors, strict=True):
                source = tensor.view(-1).view(torch.uint8)
                for start, piece in pieces:
                    piece.copy_(source[start : start + piece.numel()], non_blocking=True)
        return stored

    @torch.inference_mode()
    def get(self, stored: Stored) -> tuple[Tensor, ...]:
        """Copy tensors back to the device; they stay here as well until `free`."""
        self._lane.before_up()
        tensors = []
        for pieces, layout in zip(self._pieces(stored), stored.layouts, strict=True):
            tensor = torch.empty(layout.shape, dtype=layout.dtype, device=self._device)
            target = tensor.view(-1).view(torch.uint8)
            for start, piece in pieces:
                target[start : start + piece.numel()].copy_(piece, non_blocking=True)
            tensors.append(tensor)
        return tuple(tensors)

    def free(self, stored: Stored) -> None:
        """Let tensors go; copies under way are not disturbed, see `SideStream`."""
        self._num_used -= len(stored.blocks)
        self._free.extend(stored.blocks)

    def _pieces(self, stored: Stored) -> Iterator[list[tuple[int, Tensor]]]:
        """Tell for each tensor which of its bytes lie where: their start, and the part of a block."""
        position = 0
        for layout in stored.layouts:
            pieces, start = [], 0
            while start < layout.num_bytes:
                index, offset = divmod(position, self._block_bytes)
                size = min(layout.num_bytes - start, self._block_bytes - offset)
                pieces.append((start, stored.blocks[index][offset : offset + size]))
                start, position = start + size, position + size
            yield pieces

    def _take(self, num_blocks: int) -> tuple[Tensor, ...] | None:
        """Take blocks out, allocating as needed; None, and none taken, if there are not enough."""
        if num_blocks > len(self._free) + self._num_left:
            return None
        while len(self._free) < num_blocks:
            if not self._allocate():
                return None
        taken = self._free[len(self._free) - num_blocks :]
        del self._free[len(self._free) - num_blocks :]
        self._num_used += num_blocks
        return tuple(taken)

    def _allocate(self) -> bool:
        num_blocks = min(_BLOCKS_PER_SLAB, self._num_left)
        try:
            slab = torch.empty((num_blocks, self._block_bytes), dtype=torch.uint8, pin_memory=self._is_pinned)
        except RuntimeError as error:  # the driver's error for every failure to pin memory
            self._num_left = 0
            log.warning("host memory for the prefix cache stays at %d MB: %s", self.max_bytes // 2**20, error)
            return False
        self._num_left -= num_blocks
        self._free.extend(slab.unbind())
        return True
