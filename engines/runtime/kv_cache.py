"""Where keys and values live while a request is answered: one prompt being read, and the running rows side by side.

In: each layer's new keys and values. Out: views of everything so far, for attention. Memory is allocated ahead, so no
step copies what is there already. Shared by both local engines; belongs to the model thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.host_memory import total_bytes
from engines.runtime.prefix_cache import Layers

_COLUMNS_STEP = 64
# Out-of-memory errors that have no type of their own in torch, by their messages.
_SIGNS_OF_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def memory_bytes(device: torch.device | None = None) -> int:
    """Memory that may be given out in shares: what is free on a CUDA device, else all of the machine or container."""
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return total_bytes()


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise what torch says about a lack of memory as `MemoryError`, which is what the scheduler understands."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY):
            raise MemoryError(str(error)) from error
        raise


@dataclass(frozen=True, slots=True)
class KVShape:
    """What keys and values of a model look like; ``num_heads`` are theirs: several query heads may share one."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize

    def allocate(self, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
        """Make room for one layer's keys and values; (num_rows, heads, num_columns, head_dim), all zero."""
        size = (num_rows, self.num_heads, num_columns, self.head_dim)
        return (
            torch.zeros(size, dtype=self.dtype, device=self.device),
            torch.zeros(size, dtype=self.dtype, device=self.device),
        )


class KVPrompt:
    """Keys and values of one prompt while it is read in chunks.

    Args:
        shape: of the model.
        num_tokens: length of the whole prompt; exactly so much is allocated.
    """

    def __init__(self, shape: KVShape, num_tokens: int) -> None:
        self.num_done = 0
        self.num_tokens = num_tokens
        self.layers = [shape.allocate(1, num_tokens) for _ in range(shape.num_layers)]

    def load(self, prefix: Layers, num_tokens: int) -> None:
        """Begin with keys and values that are known already."""
        for (keys, values), (known_keys, known_values) in zip(self.layers, prefix, strict=True):
            keys[:, :, :num_tokens] = known_keys
            values[:, :, :num_tokens] = known_values
        self.num_done = num_tokens

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Put a chunk behind what is done; `advance` makes it count.

        Args:
            key: (1, heads, n, head_dim).
            value: likewise.
            layer: whose.

        Returns:
            Views of all keys and values including the chunk's.
        """
        start, stop = self.num_done, self.num_done + key.shape[2]
        keys, values = self.layers[layer]
        keys[:, :, start:stop] = key
        values[:, :, start:stop] = value
        return keys[:, :, :stop], values[:, :, :stop]

    def advance(self, num_tokens: int) -> None:
        """Count a chunk that went through all layers."""
        self.num_done += num_tokens


class KVBatch:
    """Keys and values of the running rows: row r's token i is at [r, :, i], and what is behind its length is masked.

    It is zero as well: a masked value counts 0 times, and 0 times the NaN that a broken answer left there is NaN.

    Rows 0 to n - 1 are in use, without holes: when one leaves, the last moves to its place. Room grows in both
    directions as needed, layer by layer, and is only as large as the rows of the moment need when it does.

    Args:
        shape: of the model.
        max_rows: bound of the rows.
    """

    def __init__(self, shape: KVShape, max_rows: int) -> None:
        self._shape = shape
        self._max_rows = max_rows
        self._layers = [shape.allocate(0, 0) for _ in range(shape.num_layers)]
        self._max_lengths: list[int] = []
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.lengths)

    def join(self, prompt: KVPrompt, max_length: int) -> int:
        """Copy a prompt in, all of it; return its row.

        Args:
            prompt: its last chunk need not count yet.
            max_length: how long the row can become.
        """
        row, length = len(self.lengths), prompt.num_tokens
        num_columns = max([length + 1, *(other + 1 for other in self.lengths)])
        self._max_lengths.append(max_length)
        try:
            for layer, (keys, values) in enumerate(prompt.layers):
                self._make_room(layer, row + 1, num_columns)
                own_keys, own_values = self._layers[layer]
                own_keys[row, :, :length] = keys[0]
                own_values[row, :, :length] = values[0]
        except BaseException:
            self._max_lengths.pop()
            raise
        self.lengths.append(length)
        return row

    def leave(self, row: int) -> None:
        """Free a row. The last one takes its place, and its number."""
        last = len(self.lengths) - 1
        # One more than counted: a step that failed half way has written there.
        num_left, num_moved = self.lengths[row] + 1, self.lengths[last] + 1
        for keys_and_values in self._layers:
            for tensor in keys_and_values:
                tensor[row, :, :num_left] = 0.0
                if row != last:
                    tensor[row, :, :num_moved] = tensor[last, :, :num_moved]
                    tensor[last, :, :num_moved] = 0.0
        self.lengths[row] = self.lengths[last]
        self._max_lengths[row] = self._max_lengths[last]
        del self.lengths[last], self._max_lengths[last]

    def views(self, row: int) -> Layers:
        """Everything a row holds; (1, heads, length, head_dim) each, good until the batch changes."""
        length = self.lengths[row]
        return [(keys[row : row + 1, :, :length], values[row : row + 1, :, :length]) for keys, values in self._layers]

    def begin_step(self, rows: Sequence[int]) -> KVStep:
        """Prepare to add one token to each of some rows."""
        return KVStep(self, rows)

    def release(self) -> None:
        """Give the memory back if no row is in use."""
        if not self.lengths:
            self._layers = [self._shape.allocate(0, 0) for _ in self._layers]

    def _make_room(self, layer: int, num_rows: int, num_columns: int) -> None:
        """Let a layer have at least so many rows, and more columns than that.

        One is always spare. What a row holds is then never a whole tensor, which the prefix cache would take over
        instead of copying it, and which the batch would go on writing to.
        """
        keys, values = self._layers[layer]
        if keys.shape[0] >= num_rows and keys.shape[2] > num_columns:
            return
        # Grow by half, but not beyond what the rows can ever need.
        ahead = -(-num_columns * 3 // 2 // _COLUMNS_STEP) * _COLUMNS_STEP
        columns = max(num_columns + 1, min(ahead, max(self._max_lengths)))
        rows = min(1 << (num_rows - 1).bit_length(), max(num_rows, self._max_rows))
        larger = self._shape.allocate(rows, columns)
        used_rows, used_columns = len(self.lengths), max(self.lengths, default=0)
        for new, old in zip(larger, (keys, values), strict=True):
            new[:used_rows, :, :used_columns] = old[:used_rows, :, :used_columns]
        self._layers[layer] = larger


class KVStep:
    """One decode step over some rows of a batch; the batch is unchanged until `advance`.

    Attributes:
        positions: (B,) the column each row's token goes to, on the device.
        mask: (B, 1, 1, width), added to the scores: -inf where a row may not look; None if all may look everywhere.

    Args:
        batch: whose rows.
        rows: which; a run of neighbours is read in place, others are gathered layer by layer.
    """

    def __init__(self, batch: KVBatch, rows: Sequence[int]) -> None:
        self._batch = batch
        self._rows = list(rows)
        lengths = [batch.lengths[row] for row in rows]
        self.width = max(lengths) + 1
        first, size = self._rows[0], len(self._rows)
        device = batch._shape.device
        placed = torch.tensor([self._rows, lengths]).to(device, non_blocking=True)
        self._row_index, self.positions = placed[0], placed[1]
        self._select: slice | Tensor = self._row_index
        if self._rows == list(range(first, first + size)):
            self._select = slice(first, first + size)
        self.mask: Tensor | None = None
        if min(lengths) + 1 < self.width:
            is_hidden = torch.arange(self.width, device=device) > self.positions[:, None]
            mask = torch.zeros(is_hidden.shape, dtype=batch._shape.dtype, device=device)
            self.mask = mask.masked_fill_(is_hidden, float("-inf"))[:, None, None]

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Put each row's new key and value behind its others.

        Args:
            key: (B, heads, 1, head_dim).
            value: likewise.
            layer: whose.

        Returns:
            (B, heads, width, head_dim) each, of all tokens so far.
        """
        self._batch._make_room(layer, len(self._batch), self.width)
        keys, values = self._batch._layers[layer]
        keys[self._row_index, :, self.positions] = key[:, :, 0]
        values[self._row_index, :, self.positions] = value[:, :, 0]
        return keys[self._select, :, : self.width], values[self._select, :, : self.width]

    def advance(self) -> None:
        """Count the tokens, after they went through all layers."""
        for row in self._rows:
            self._batch.lengths[row] += 1
