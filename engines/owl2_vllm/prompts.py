"""A prepared prompt in vLLM's terms: which id a picture's rows carry, and what its caches may share.

In: ids of ours, with markers of pictures. Out: ids with all rows of the pictures in place, and keys for the caches.
No vLLM here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from engines.owl2.config import IMAGE_TOKEN_ID, MPLUGOwl2Config
from engines.owl2.runner import PreparedRequest
from engines.runtime.prefix_cache import CacheScope

Span = tuple[int, int]
"""Start and length of a picture's rows."""


def image_token_id(config: MPLUGOwl2Config) -> int:
    """Return the id on a picture's rows: the first beyond the vocabulary, so that no text can ever have it."""
    return config.vocab_size


def expand(ids: Sequence[int], num_rows: int, row_id: int) -> tuple[list[int], list[Span]]:
    """Give each picture of a prompt its rows.

    Args:
        ids: of a prompt, one id per picture: `IMAGE_TOKEN_ID` or ``row_id``.
        num_rows: per picture.
        row_id: what each row is to have.

    Returns:
        The ids, and where each picture is.
    """
    expanded: list[int] = []
    spans: list[Span] = []
    for token_id in ids:
        if token_id in (IMAGE_TOKEN_ID, row_id):
            spans.append((len(expanded), num_rows))
            expanded += [row_id] * num_rows
        else:
            expanded.append(token_id)
    return expanded, spans


def mark_rows(prepared: PreparedRequest, row_id: int) -> tuple[list[int], list[Span]]:
    """Return a prepared prompt's ids with ``row_id`` on its pictures' rows, and where those are."""
    ids: list[int] = prepared.sequence.ids.tolist()
    spans = [(span.start, span.length) for span in prepared.sequence.images]
    for start, length in spans:
        ids[start : start + length] = [row_id] * length
    return ids, spans


def salt_of(scope: CacheScope) -> str:
    """Return what stands for a scope in vLLM's prefix cache: what one caller left is never found by another."""
    return digest(scope.caller, scope.model, scope.adapter, scope.dtype, scope.preprocess)


def picture_keys(prepared: PreparedRequest) -> list[str]:
    """Return what stands for each picture in vLLM's caches, within the request's scope."""
    return [digest(salt_of(prepared.scope), span.pixel_hash) for span in prepared.sequence.images]


def digest(*parts: str) -> str:
    """Hash texts, in order."""
    return blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=16).hexdigest()
