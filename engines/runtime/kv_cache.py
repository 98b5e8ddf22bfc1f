"""Where keys and values live while a request is answered: one prompt being read, and the running rows side by side.

In: each layer's new keys and values. Out: views of everything so far, for attention. Memory is allocated ahead, so no
step copies what is there already. Shared by both local engines; belongs to the model thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.runtime.prefix_cache import Layers

_COLUMNS_STEP = 64
# Room that is over so many times what the rows hold is given back, unless it is hardly any.
_KEPT_TIMES = 4
_KEPT_TOKENS = 4 * _COLUMNS_STEP
# Out-of-memory errors that have no type of their own in torch, by their messages.
_SIGNS_OF_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


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
    """What keys and values of a model look like, and what else of a request takes memory by the token.

    Attributes:
        num_layers: decoder layers.
        num_heads: of keys and values; several query heads may share one.
        head_dim: numbers per head.
        dtype: of keys and values.
        device: where they are.
        num_repeats: how many times attention copies a layer of the prompt that it reads: once per query head that
            shares a head, where its kernel cannot share. 0 where it reads them as they lie.
        picture_row_bytes: what a picture's features take per row of the prompt, until that was read.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    num_repeats: int = 0
    picture_row_bytes: int = 0

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize

    def peak_tokens(self, max_lengths: Sequence[int], num_picture_rows: int = 0) -> int:
        """Say how much memory requests may take at the same time while a `KVBatch` has them, in tokens.

        Rows lie side by side, each as long as the longest, with one column to spare. While room grows, or some rows are
        gathered, one layer exists twice.

        Args:
            max_lengths: prompt and answer of each request.
            num_picture_rows: of all their pictures.
        """
        longest = max(max_lengths, default=0)
        room = len(max_lengths) * (longest + 1) * (self.num_layers + 1) + longest * self.num_repeats
        return -(-room // self.num_layers) + self.picture_tokens(num_picture_rows)

    def picture_tokens(self, num_rows: int) -> int:
        """Say how many tokens' keys and values take as much memory as so many rows of pictures."""
        return -(-num_rows * self.picture_row_bytes // self.bytes_per_token)

    def longest_that_fits(self, max_tokens: int) -> int:
        """Say how long one request may be for `peak_tokens` to stay within a bound, whatever part of it is pictures."""
        per_token = self.num_layers + 1 + self.num_repeats
        per_picture_row = self.num_layers * self.picture_row_bytes / self.bytes_per_token
        return max(0, int((max_tokens - 1) * self.num_layers / (per_token + per_picture_row)) - 2)

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
        num_picture_rows: of its pictures, whose features lie beside it meanwhile.
    """

    def __init__(self, shape: KVShape, num_tokens: int, num_picture_rows: int = 0) -> None:
        self.num_picture_rows = num_picture_rows
        self.num_done = 0
        self.num_tokens = num_tokens
        self.layers = [shape.allocate(1, num_tokens) for _ in range(shape.num_layers)]

    @property
    def num_allocated(self) -> int:
        """Tokens whose keys and values have room; 0 after the batch has taken the prompt over."""
        return self.num_tokens if self.layers else 0

    def take_layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the layers away, each as soon as the one before it is copied: the prompt never lies there twice."""
        layers, self.layers = self.layers, []
        layers.reverse()
        while layers:
            yield layers.pop()

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

    Rows 0 to n - 1 are in use, without holes: when one leaves, the last moves to its place. The room grows in both
    directions as needed, layer by layer. It is rounded up to save copies, but only within ``max_tokens``.

    Args:
        shape: of the model.
        max_rows: bound of the rows.
        max_tokens: bound of rows times columns, of the prompts being read, their pictures and all copies; those who
            admit requests keep their `KVShape.peak_tokens` within it. None for no bound.
    """

    def __init__(self, shape: KVShape, max_rows: int, max_tokens: int | None = None) -> None:
        self._shape = shape
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._layers = [shape.allocate(0, 0) for _ in range(shape.num_layers)]
        self._max_lengths: list[int] = []
        self._prompts: weakref.WeakSet[KVPrompt] = weakref.WeakSet()
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_allocated(self) -> int:
        """Tokens whose keys and values have room: rows times columns of the largest layer."""
        return max(keys.shape[0] * keys.shape[2] for keys, _ in self._layers)

    def begin_prompt(self, num_tokens: int, num_picture_rows: int = 0) -> KVPrompt:
        """Make room for a prompt beside the batch, which gives up what it had rounded up if that is needed.

        Args:
            num_tokens: length of the prompt.
            num_picture_rows: of its pictures.
        """
        if self._max_tokens is not None and self.num_allocated > self._free_tokens(num_tokens, num_picture_rows):
            self._resize_all(is_tight=True)
        prompt = KVPrompt(self._shape, num_tokens, num_picture_rows)
        self._prompts.add(prompt)
        return prompt

    def join(self, prompt: KVPrompt, max_length: int) -> int:
        """Copy a prompt in, all of it; return its row. The prompt is empty afterwards, also if this fails.

        Args:
            prompt: its last chunk need not count yet.
            max_length: how long the row can become.
        """
        row, length = len(self.lengths), prompt.num_tokens
        num_columns = max([length + 1, *(other + 1 for other in self.lengths)])
        self._max_lengths.append(max_length)
        room = self._room_for(row + 1, num_columns)
        try:
            for layer, (keys, values) in enumerate(prompt.take_layers()):
                self._make_room(layer, row + 1, num_columns, room)
                own_keys, own_values = self._layers[layer]
                own_keys[row, :, :length] = keys[0]
                own_values[row, :, :length] = values[0]
        except BaseException:
            self._max_lengths.pop()
            for keys_and_values in self._layers:
                for tensor in keys_and_values:
                    tensor[row:, :, :length] = 0.0  # what was copied already
            raise
        self.lengths.append(length)
        return row

    def leave(self, row: int) -> None:
        """Free a row. The last one takes its place, and its number; room that is hardly used any more is given back."""
        last = len(self.lengths) - 1
        # One more than counted: a step that failed half way has written there.
        num_left, num_moved = self.lengths[row] + 1, self.lengths[last] + 1
        for keys_and_values in self._layers if last else ():
            for tensor in keys_and_values:
                tensor[row, :, :num_left] = 0.0
                if row != last:
                    tensor[row, :, :num_moved] = tensor[last, :, :num_moved]
                    tensor[last, :, :num_moved] = 0.0
        self.lengths[row] = self.lengths[last]
        self._max_lengths[row] = self._max_lengths[last]
        del self.lengths[last], self._max_lengths[last]
        num_used = len(self.lengths) * max(self.lengths, default=0)
        if not self.lengths:
            self.release()
        elif self.num_allocated > max(num_used * _KEPT_TIMES, _KEPT_TOKENS):
            # A card too full for the smaller copy keeps the larger one: the row has left in any case.
            with suppress(MemoryError), memory_errors():
                self._resize_all(is_tight=False)

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

    def _free_tokens(self, num_tokens: int = 0, num_picture_rows: int = 0) -> int:
        """What the batch may take beside the prompts being read and one to come; `peak_tokens` the other way."""
        assert self._max_tokens is not None
        shape, prompts = self._shape, list(self._prompts)
        lengths = [num_tokens, *(prompt.num_allocated for prompt in prompts)]
        num_picture_rows += sum(prompt.num_picture_rows for prompt in prompts)
        left = self._max_tokens - shape.picture_tokens(num_picture_rows)
        return (left * shape.num_layers - max(lengths) * shape.num_repeats) // (shape.num_layers + 1) - sum(lengths)

    def _room_for(self, num_rows: int, num_columns: int, *, is_tight: bool = False) -> tuple[int, int]:
        """Choose how many rows and columns to allocate: at least so many rows, and more columns than that.

        Columns grow by half, but not beyond what the rows can ever need, which is what was admitted. Rows are rounded
        up to a power of two as far as the bound allows, and not at all with ``is_tight``.
        """
        ahead = -(-num_columns * 3 // 2 // _COLUMNS_STEP) * _COLUMNS_STEP
        columns = max(num_columns + 1, min(ahead, max(self._max_lengths)))
        rows = num_rows if is_tight else min(1 << (num_rows - 1).bit_length(), max(num_rows, self._max_rows))
        if self._max_tokens is not None:
            rows = max(num_rows, min(rows, self._free_tokens() // columns))
        return rows, columns

    def _make_room(self, layer: int, num_rows: int, num_columns: int, room: tuple[int, int] | None = None) -> None:
        """Let a layer have at least so many rows, and more columns than that.

        One is always spare. What a row holds is then never a whole tensor, which the prefix cache would take over
        instead of copying it, and which the batch would go on writing to.
        """
        keys, _ = self._layers[layer]
        if keys.shape[0] < num_rows or keys.shape[2] <= num_columns:
            self._resize(layer, *(room or self._room_for(num_rows, num_columns)))

    def _resize(self, layer: int, num_rows: int, num_columns: int) -> None:
        larger = self._shape.allocate(num_rows, num_columns)
        used_rows, used_columns = len(self.lengths), max(self.lengths, default=0)
        for new, old in zip(larger, self._layers[layer], strict=True):
            new[:used_rows, :, :used_columns] = old[:used_rows, :, :used_columns]
        self._layers[layer] = larger

    def _resize_all(self, *, is_tight: bool) -> None:
        """Give back what the rows of the moment do not need."""
        if not self.lengths:
            return self.release()
        room = self._room_for(len(self.lengths), max(self.lengths) + 1, is_tight=is_tight)
        for layer, (keys, _) in enumerate(self._layers):
            if keys.shape[0] * keys.shape[2] > room[0] * room[1]:
                self._resize(layer, *room)


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
