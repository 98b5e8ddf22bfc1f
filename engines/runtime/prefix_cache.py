"""What the model computed and may need again: vision features by picture, keys and values by beginning of the prompt.

In: tensors and what they were computed from. Out: the same tensors, for a request that has the same picture or begins
with the same tokens. One byte budget for both kinds, and a bound on the number of each; the least recently used go
first, on a GPU to host memory before they are gone. Shared by both local engines.

Everything here belongs to the model thread, but `PrefixCache.stats`, which any thread may read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice, zip_longest
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.runtime.host_store import HostStore, Stored

MAX_PREFIXES = 128
"""Beginnings held at most. Each prompt is compared with all of its scope: small ones would fit by the ten thousand."""
MAX_PICTURES = 4096
"""Pictures held at most."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each decoder layer, (1, heads, S, head_dim)."""


@dataclass(frozen=True, slots=True)
class CacheScope:
    """Everything but the tokens that keys and values depend on; nothing is ever found across scopes.

    Attributes:
        caller: whose it is. What one caller left must not show another, not even by being fast.
        model: which weights.
        adapter: which LoRA adapter on them.
        dtype: of the computation, quantisation included.
        preprocess: version of whatever turns pictures into pixels and prompts into tokens.
    """

    caller: str
    model: str
    adapter: str = ""
    dtype: str = ""
    preprocess: str = ""


class ImageSpan(NamedTuple):
    """The rows of one picture in a sequence.

    Attributes:
        start: the first.
        length: how many.
        pixel_hash: of the pixels the model sees. The ids of two pictures of one size are equal; this is not.
    """

    start: int
    length: int
    pixel_hash: str


class TokenSequence:
    """A prompt as the cache compares it: ids, and which picture is behind which placeholders.

    Args:
        ids: one per row of the model's sequence; any id, but always the same, on rows of a picture.
        images: in order, not overlapping.
    """

    __slots__ = ("ids", "images")

    def __init__(self, ids: Sequence[int] | npt.NDArray[np.int64], images: Sequence[ImageSpan] = ()) -> None:
        self.ids = np.asarray(ids, np.int64)
        self.images = tuple(images)

    def __len__(self) -> int:
        return len(self.ids)

    def extended(self, ids: Sequence[int]) -> TokenSequence:
        """Return the sequence with text after it."""
        return TokenSequence(np.concatenate([self.ids, np.asarray(ids, np.int64)]), self.images)

    def common_prefix(self, other: TokenSequence) -> int:
        """Length of the longest beginning both share; it never ends inside a picture."""
        size = min(len(self), len(other))
        differs = self.ids[:size] != other.ids[:size]
        shared = int(differs.argmax()) if differs.any() else size
        for mine, others in zip_longest(self.images, other.images):
            if mine != others:
                shared = min([shared, *(span.start for span in (mine, others) if span is not None)])
                break
        return self.outside_images(shared)

    def outside_images(self, num_tokens: int) -> int:
        """Shorten a beginning that would end inside a picture to where that picture starts."""
        for start, length, _ in self.images:
            if start < num_tokens < start + length:
                return start
        return num_tokens


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the start, and what is held now.

    Attributes:
        num_entries: on the device and on the host together.
        num_bytes: on the device.
        num_host_bytes: on the host, in whole blocks.
        num_evictions: entries that had to leave the device, to the host or for good.
        num_spills: those of them that went to the host.
        num_host_evictions: entries that had to leave the host.
        num_host_hits: entries that were found on the host and copied back.
        num_feature_hits: pictures found, wherever they were.
        num_feature_misses: pictures not found.
        num_prefix_tokens_reused: tokens of the beginnings found.
    """

    num_entries: int = 0
    num_bytes: int = 0
    num_host_bytes: int = 0
    num_evictions: int = 0
    num_spills: int = 0
    num_host_evictions: int = 0
    num_host_hits: int = 0
    num_feature_hits: int = 0
    num_feature_misses: int = 0
    num_prefix_tokens_reused: int = 0

    def describe(self) -> str:
        """Say in one line what the cache was good for, and whether it was too small."""
        num_pictures = self.num_feature_hits + self.num_feature_misses
        return (
            f"prefix cache: {self.num_feature_hits} of {num_pictures} pictures found, "
            f"{self.num_prefix_tokens_reused} prompt tokens not read again; "
            f"{self.num_evictions} entries left the device, {self.num_spills} of them for the host, which gave "
            f"{self.num_host_hits} back and let {self.num_host_evictions} go; "
            f"{self.num_entries} held in {self.num_bytes} bytes, and {self.num_host_bytes} on the host"
        )


@dataclass(eq=False, slots=True)
class _Entry:
    """Tensors that belong together: features alone, or keys and values of each layer in turn.

    They are on the device, or in the host store; never in both.
    """

    scope: CacheScope
    num_bytes: int
    tensors: tuple[Tensor, ...]
    sequence: TokenSequence | None = None
    stored: Stored | None = None
    num_pins: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """A beginning that was computed before.

    Attributes:
        num_tokens: its length.
        layers: views (1, heads, num_tokens, head_dim), only good while the entry is held.
    """

    num_tokens: int
    layers: Layers = field(repr=False)


class PrefixCache:
    """The store.

    Args:
        max_bytes: budget of all tensors on the device together; 0 stores nothing.
        host: where the least recently used go when they have to leave the device; None lets them go for good.
    """

    def __init__(self, max_bytes: int, host: HostStore | None = None) -> None:
        self._max_bytes = max_bytes
        self._host = host
        self._entries: OrderedDict[object, _Entry] = OrderedDict()  # least recently used first, wherever they are
        self._prefixes: dict[CacheScope, set[int]] = {}
        self._new_key = count()
        self.stats = CacheStats()

    # -- pictures -----------------------------------------------------------------------------------------------------

    def get_features(self, scope: CacheScope, pixel_hash: str) -> Tensor | None:
        """Return what the vision side made of a picture; it stays valid for as long as the caller refers to it."""
        key = (scope, pixel_hash)
        if key not in self._entries:
            self._count(num_feature_misses=1)
            return None
        self._count(num_feature_hits=1)
        with self._held(key) as entry:
            return entry.tensors[0]

    def put_features(self, scope: CacheScope, pixel_hash: str, features: Tensor) -> None:
        """Keep what the vision side made of a picture."""
        key = (scope, pixel_hash)
        if key in self._entries:
            self._entries.move_to_end(key)
        elif features.nbytes <= self._max_bytes:
            self._insert(key, _Entry(scope, features.nbytes, (_compact(features),)))
            self._bound()

    # -- beginnings ---------------------------------------------------------------------------------------------------

    @contextmanager
    def longest_prefix(self, scope: CacheScope, sequence: TokenSequence, max_tokens: int) -> Iterator[Prefix | None]:
        """Find the longest known beginning of a sequence, and hold it while the caller copies it.

        Args:
            scope: only what was put under the same one is found.
            sequence: the whole prompt.
            max_tokens: use no more than so many; at least one row must be left to compute, or there are no logits.

        Yields:
            The beginning; None if nothing is known. An entry that is held is never evicted.
        """
        best: tuple[int, int] | None = None
        for key in self._prefixes.get(scope, ()):
            known = self._entries[key].sequence
            assert known is not None
            best = max(best or (0, -1), (known.common_prefix(sequence), key))
        if best is None or (num_tokens := sequence.outside_images(min(best[0], max_tokens))) < 1:
            yield None
            return
        self._count(num_prefix_tokens_reused=num_tokens)
        with self._held(best[1]) as entry:
            parts = iter([tensor[:, :, :num_tokens] for tensor in entry.tensors])
            yield Prefix(num_tokens, list(zip(parts, parts, strict=True)))

    def put_prefix(self, scope: CacheScope, sequence: TokenSequence, layers: Layers) -> None:
        """Keep the keys and values of a sequence.

        Tensors that are views of something larger are copied, others are taken over: the caller must not write to them
        any more. A sequence that is the beginning of a known one is not kept, and beginnings of this one are let go.

        Args:
            scope: where it may be found.
            sequence: all S tokens.
            layers: keys and values, (1, heads, S, head_dim) each.
        """
        num_bytes = sum(key.nbytes + value.nbytes for key, value in layers)
        if num_bytes > self._max_bytes or not len(sequence):
            return
        for key in sorted(self._prefixes.get(scope, ())):
            entry = self._entries[key]
            assert entry.sequence is not None
            shared = entry.sequence.common_prefix(sequence)
            if shared == len(sequence):
                self._entries.move_to_end(key)
                return
            if shared == len(entry.sequence) and not entry.num_pins:
                self._remove(key)
        self._evict(num_bytes)  # before copying, so that the two are never held at once
        key = next(self._new_key)
        copied = tuple(_compact(tensor) for keys_and_values in layers for tensor in keys_and_values)
        self._prefixes.setdefault(scope, set()).add(key)
        self._insert(key, _Entry(scope, num_bytes, copied, sequence=sequence))
        self._bound()

    # -- both ---------------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Free every entry that is not in use."""
        for key in [key for key, entry in self._entries.items() if not entry.num_pins]:
            self._remove(key)

    @contextmanager
    def _held(self, key: object) -> Iterator[_Entry]:
        """Give an entry that is on the device, and stays there meanwhile."""
        entry = self._entries[key]
        self._entries.move_to_end(key)
        entry.num_pins += 1
        try:
            self._restore(entry)
            yield entry
        finally:
            entry.num_pins -= 1
            self._evict()

    def _insert(self, key: object, entry: _Entry) -> None:
        self._entries[key] = entry
        self._count(num_entries=1, num_bytes=entry.num_bytes)
        self._evict()

    def _bound(self) -> None:
        """Let the least recently used beginnings, and pictures, go where there are too many to look through."""
        num_prefixes = sum(map(len, self._prefixes.values()))
        for is_prefix, excess in (
            (True, num_prefixes - MAX_PREFIXES),
            (False, len(self._entries) - num_prefixes - MAX_PICTURES),
        ):
            if excess > 0:
                ours = (key for key, each in self._entries.items() if (each.sequence is not None) == is_prefix)
                free = (key for key in ours if not self._entries[key].num_pins)
                for key in list(islice(free, excess)):
                    self._remove(key)
                    self._count(num_evictions=1)

    def _remove(self, key: object) -> None:
        entry = self._entries.pop(key)
        if entry.stored is None:
            self._count(num_entries=-1, num_bytes=-entry.num_bytes)
        else:
            self._count(num_entries=-1)
            self._leave_host(entry)
        if isinstance(key, int):
            keys = self._prefixes[entry.scope]
            keys.discard(key)
            if not keys:
                del self._prefixes[entry.scope]

    def _evict(self, num_bytes_to_come: int = 0) -> None:
        """Let the least recently used leave the device until the rest, and what is to come, fits."""
        if self.stats.num_bytes + num_bytes_to_come <= self._max_bytes:
            return  # before all of them are listed
        for key, entry in list(self._entries.items()):
            if self.stats.num_bytes + num_bytes_to_come <= self._max_bytes:
                return
            # Making room on the host for an earlier one of the list may have removed this one.
            if entry.stored is None and not entry.num_pins and key in self._entries:
                self._count(num_evictions=1)
                if not self._spill(entry):
                    self._remove(key)

    # -- the host -----------------------------------------------------------------------------------------------------

    def _spill(self, entry: _Entry) -> bool:
        """Move an entry to the host, where the least recently used go for it; False if it can't be there."""
        if self._host is None or (size := self._host.size_of(entry.num_bytes)) > self._host.max_bytes:
            return False
        for key, other in list(self._entries.items()):
            if self._host.num_bytes + size <= self._host.max_bytes:
                break
            if other.stored is not None and not other.num_pins:
                self._remove(key)
                self._count(num_host_evictions=1)
        entry.stored = self._host.put(entry.tensors)
        if entry.stored is None:
            return False
        entry.tensors = ()
        self._count(num_spills=1, num_bytes=-entry.num_bytes, num_host_bytes=size)
        return True

    def _restore(self, entry: _Entry) -> None:
        """Move an entry from the host to the device."""
        if entry.stored is None:
            return
        assert self._host is not None
        # Before others are moved off the device, so that they can use the host memory that this one frees.
        entry.tensors = self._host.get(entry.stored)
        self._leave_host(entry)
        self._count(num_host_hits=1, num_bytes=entry.num_bytes)
        self._evict()

    def _leave_host(self, entry: _Entry) -> None:
        assert self._host is not None
        assert entry.stored is not None
        self._host.free(entry.stored)
        entry.stored = None
        self._count(num_host_bytes=-self._host.size_of(entry.num_bytes))

    def _count(self, **changes: int) -> None:
        # A new object each time, so that other threads read consistent counts.
        old = self.stats
        self.stats = CacheStats(
            *(getattr(old, name) + changes.get(name, 0) for name in CacheStats.__dataclass_fields__)
        )


def _compact(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if it is only a part of what it keeps in memory."""
    is_whole = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.is_contiguous()
    return tensor if is_whole else tensor.clone(memory_format=torch.contiguous_format)
