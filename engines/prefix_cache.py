"""What the model computed and may need again: vision features by picture, keys and values by beginning of the prompt.

In: tensors and what they were computed from. Out: the same tensors, for a request that has the same picture or begins
with the same tokens. One byte budget for both kinds; the least recently used go first. Shared by both local engines.

Everything here belongs to the model thread, but `PrefixCache.stats`, which any thread may read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, zip_longest
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

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
    """Counts since the start, and what is held now."""

    num_entries: int = 0
    num_bytes: int = 0
    num_evictions: int = 0
    num_feature_hits: int = 0
    num_feature_misses: int = 0
    num_prefix_tokens_reused: int = 0


@dataclass(eq=False, slots=True)
class _Entry:
    scope: CacheScope
    num_bytes: int
    features: Tensor | None = None
    sequence: TokenSequence | None = None
    layers: tuple[tuple[Tensor, Tensor], ...] = ()
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
        max_bytes: budget of all tensors together; 0 stores nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[object, _Entry] = OrderedDict()  # least recently used first
        self._prefixes: dict[CacheScope, set[int]] = {}
        self._new_key = count()
        self.stats = CacheStats()

    # -- pictures -----------------------------------------------------------------------------------------------------

    def get_features(self, scope: CacheScope, pixel_hash: str) -> Tensor | None:
        """Return what the vision side made of a picture; it stays valid for as long as the caller refers to it."""
        key = (scope, pixel_hash)
        entry = self._entries.get(key)
        if entry is None:
            self._count(num_feature_misses=1)
            return None
        self._entries.move_to_end(key)
        self._count(num_feature_hits=1)
        return entry.features

    def put_features(self, scope: CacheScope, pixel_hash: str, features: Tensor) -> None:
        """Keep what the vision side made of a picture."""
        key = (scope, pixel_hash)
        if key in self._entries:
            self._entries.move_to_end(key)
        elif features.nbytes <= self._max_bytes:
            self._insert(key, _Entry(scope, features.nbytes, features=_compact(features)))

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
        entry = self._entries[best[1]]
        self._entries.move_to_end(best[1])
        self._count(num_prefix_tokens_reused=num_tokens)
        entry.num_pins += 1
        try:
            yield Prefix(num_tokens, [(k[:, :, :num_tokens], v[:, :, :num_tokens]) for k, v in entry.layers])
        finally:
            entry.num_pins -= 1
            self._evict()

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
        copied = tuple((_compact(keys), _compact(values)) for keys, values in layers)
        self._prefixes.setdefault(scope, set()).add(key)
        self._insert(key, _Entry(scope, num_bytes, sequence=sequence, layers=copied))

    # -- both ---------------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Let everything go that nobody holds."""
        for key in [key for key, entry in self._entries.items() if not entry.num_pins]:
            self._remove(key)

    def _insert(self, key: object, entry: _Entry) -> None:
        self._entries[key] = entry
        self._count(num_entries=1, num_bytes=entry.num_bytes)
        self._evict()

    def _remove(self, key: object) -> None:
        entry = self._entries.pop(key)
        self._count(num_entries=-1, num_bytes=-entry.num_bytes)
        if isinstance(key, int):
            keys = self._prefixes[entry.scope]
            keys.discard(key)
            if not keys:
                del self._prefixes[entry.scope]

    def _evict(self, num_bytes_to_come: int = 0) -> None:
        """Let the least recently used go until the rest, and what is to come, fits."""
        for key in list(self._entries):
            if self.stats.num_bytes + num_bytes_to_come <= self._max_bytes:
                return
            if not self._entries[key].num_pins:
                self._remove(key)
                self._count(num_evictions=1)

    def _count(self, **changes: int) -> None:
        # A new object each time: whoever reads it on another thread sees counts that belong together.
        old = self.stats
        self.stats = CacheStats(
            *(getattr(old, name) + changes.get(name, 0) for name in CacheStats.__dataclass_fields__)
        )


def _compact(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if it is only a part of what it keeps in memory."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
