"""engines.prefix_cache: what is found again, by whom, and what has to go."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.prefix_cache import CacheScope, ImageSpan, PrefixCache, TokenSequence

ALICE = CacheScope("alice", "model")
BYTES_PER_TOKEN = 2 * 2 * 3 * 4  # keys and values, 2 heads, 3 wide, float32


def layers_of(num_tokens: int) -> list[tuple[Tensor, Tensor]]:
    keys = torch.arange(2 * num_tokens * 3, dtype=torch.float32).view(1, 2, num_tokens, 3)
    return [(keys, -keys)]


def put(cache: PrefixCache, ids: list[int], scope: CacheScope = ALICE) -> None:
    cache.put_prefix(scope, TokenSequence(ids), layers_of(len(ids)))


def found(cache: PrefixCache, sequence: TokenSequence | list[int], scope: CacheScope = ALICE) -> int:
    sequence = sequence if isinstance(sequence, TokenSequence) else TokenSequence(sequence)
    with cache.longest_prefix(scope, sequence, len(sequence) - 1) as prefix:
        return 0 if prefix is None else prefix.num_tokens


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(100 * BYTES_PER_TOKEN)


def test_the_longest_common_beginning_is_found_and_its_values_are_the_ones_put(cache: PrefixCache) -> None:
    # Given two conversations that begin alike
    put(cache, [1, 2, 3, 9])
    put(cache, [1, 2, 3, 4, 5, 6])

    # When a third one shares more with the second
    with cache.longest_prefix(ALICE, TokenSequence([1, 2, 3, 4, 5, 7, 8]), 6) as prefix:
        # Then exactly that is given back
        assert prefix is not None
        assert prefix.num_tokens == 5
        keys, values = prefix.layers[0]
        torch.testing.assert_close(keys, layers_of(6)[0][0][:, :, :5])
        torch.testing.assert_close(values, layers_of(6)[0][1][:, :, :5])


def test_at_least_one_token_is_left_to_compute(cache: PrefixCache) -> None:
    put(cache, [1, 2, 3])

    assert found(cache, [1, 2, 3]) == 2
    assert found(cache, [1]) == 0


def test_nothing_in_common_finds_nothing(cache: PrefixCache) -> None:
    assert found(cache, [5, 2, 3]) == 0
    put(cache, [1, 2, 3])

    assert found(cache, [5, 2, 3]) == 0


@pytest.mark.parametrize(
    "other",
    [
        CacheScope("bob", "model"),
        CacheScope("alice", "other"),
        CacheScope("alice", "model", adapter="receipts"),
        CacheScope("alice", "model", dtype="bfloat16"),
        CacheScope("alice", "model", preprocess="2"),
    ],
)
def test_nothing_is_found_across_scopes(cache: PrefixCache, other: CacheScope) -> None:
    put(cache, [1, 2, 3])
    cache.put_features(ALICE, "picture", torch.ones(3))

    assert found(cache, [1, 2, 3, 4], other) == 0
    assert cache.get_features(other, "picture") is None
    assert found(cache, [1, 2, 3, 4]) == 3


def test_two_pictures_of_one_size_never_share_an_entry(cache: PrefixCache) -> None:
    # Given two prompts with equal ids and other pixels
    ids = [1, 7, 7, 7, 2, 3]
    cat, dog = (TokenSequence(ids, [ImageSpan(1, 3, pixels)]) for pixels in ("cat", "dog"))
    cache.put_prefix(ALICE, cat, layers_of(6))

    # Then only what is before the picture is shared, and the same picture still is
    assert found(cache, dog) == 1
    assert found(cache, cat) == 5
    assert found(cache, TokenSequence(ids)) == 1


def test_a_beginning_never_ends_inside_a_picture(cache: PrefixCache) -> None:
    put(cache, [1, 2, 7, 7])
    picture = TokenSequence([1, 2, 7, 7, 7, 3], [ImageSpan(2, 3, "cat")])
    cache.put_prefix(ALICE, picture, layers_of(6))

    with cache.longest_prefix(ALICE, picture, 4) as prefix:
        assert prefix is not None
        assert prefix.num_tokens == 2


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_a_common_beginning_is_common_and_cannot_be_longer(data: st.DataObject) -> None:
    # Given two sequences over few tokens and pictures, so that they often begin alike
    def sequence() -> tuple[TokenSequence, list[object]]:
        ids: list[int] = []
        images: list[ImageSpan] = []
        exact: list[object] = []
        for symbol in data.draw(st.lists(st.sampled_from(["a", "b", "cat", "dog"]), max_size=6)):
            if len(symbol) == 1:
                ids.append(ord(symbol))
                exact.append(symbol)
            else:
                images.append(ImageSpan(len(ids), 3, symbol))
                ids += [0] * 3
                exact += [(symbol, row) for row in range(3)]
        return TokenSequence(ids, images), exact

    (one, one_exact), (other, other_exact) = sequence(), sequence()

    # When they are compared
    shared = one.common_prefix(other)

    # Then it is what a comparison of symbols gives, whole pictures only
    expected = next(
        (index for index, (a, b) in enumerate(zip(one_exact, other_exact, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    assert shared == expected
    assert shared == other.common_prefix(one)


def test_the_least_recently_used_go_first_whatever_they_are(cache: PrefixCache) -> None:
    # Given a full store, oldest first: a conversation, a picture, a conversation
    put(cache, [1] * 40)
    cache.put_features(ALICE, "picture", torch.ones(30 * BYTES_PER_TOKEN // 4))
    put(cache, [2] * 30)

    # When the oldest is used once more, and something new comes
    assert found(cache, [1] * 41) == 40
    put(cache, [3] * 20)

    # Then the picture had to go
    assert cache.get_features(ALICE, "picture") is None
    assert [found(cache, [id_] * 50) for id_ in (1, 2, 3)] == [40, 30, 20]
    assert cache.stats.num_bytes == 90 * BYTES_PER_TOKEN
    assert cache.stats.num_evictions == 1


def test_an_entry_in_use_is_never_evicted_or_cleared_and_goes_when_it_is_free(cache: PrefixCache) -> None:
    put(cache, [1] * 60)

    with cache.longest_prefix(ALICE, TokenSequence([1] * 61), 60) as prefix:
        assert prefix is not None
        put(cache, [2] * 60)  # both together are over the budget
        cache.clear()
        assert cache.stats.num_entries == 1
        torch.testing.assert_close(prefix.layers[0][0], layers_of(60)[0][0])

    assert found(cache, [1] * 61) == 60
    put(cache, [2] * 60)
    assert found(cache, [1] * 61) == 0


def test_a_conversation_that_goes_on_replaces_its_beginning(cache: PrefixCache) -> None:
    put(cache, [1, 2, 3])
    put(cache, [1, 2, 3, 4, 5])
    put(cache, [1, 2])

    assert cache.stats.num_entries == 1
    assert cache.stats.num_bytes == 5 * BYTES_PER_TOKEN
    assert found(cache, [1, 2, 3, 4, 5, 6]) == 5


def test_what_is_larger_than_the_budget_is_not_kept_and_costs_nobody_his_place(cache: PrefixCache) -> None:
    put(cache, [1, 2, 3])
    put(cache, [9] * 101)
    cache.put_features(ALICE, "huge", torch.ones(101 * BYTES_PER_TOKEN))

    assert found(cache, [1, 2, 3, 4]) == 3
    assert cache.stats.num_entries == 1


def test_without_a_budget_nothing_is_kept() -> None:
    cache = PrefixCache(0)
    put(cache, [1, 2, 3])
    cache.put_features(ALICE, "picture", torch.ones(1))

    assert cache.stats.num_entries == 0


def test_a_view_is_copied_so_that_the_large_buffer_it_is_part_of_can_go(cache: PrefixCache) -> None:
    # Given keys and values that are a corner of a running batch
    keys, values = torch.ones(8, 2, 64, 3), torch.ones(8, 2, 64, 3)
    cache.put_prefix(ALICE, TokenSequence([1, 2]), [(keys[3:4, :, :2], values[3:4, :, :2])])
    cache.put_features(ALICE, "picture", keys[0, 0])

    # When the batch goes on
    keys.zero_()

    # Then what was kept is untouched, and no larger than it says
    with cache.longest_prefix(ALICE, TokenSequence([1, 2, 3]), 2) as prefix:
        assert prefix is not None
        assert bool((prefix.layers[0][0] == 1).all())
        assert prefix.layers[0][0].untyped_storage().nbytes() == 2 * 2 * 3 * 4
    features = cache.get_features(ALICE, "picture")
    assert features is not None
    assert features.untyped_storage().nbytes() == features.nbytes


def test_features_are_found_by_picture(cache: PrefixCache) -> None:
    cat = torch.arange(4.0)
    cache.put_features(ALICE, "cat", cat)
    cache.put_features(ALICE, "cat", torch.zeros(4))

    assert cache.get_features(ALICE, "cat") is cat
    assert cache.get_features(ALICE, "dog") is None
    assert (cache.stats.num_feature_hits, cache.stats.num_feature_misses) == (1, 1)
    assert cache.stats.num_bytes == 16


def test_clearing_lets_everything_go(cache: PrefixCache) -> None:
    put(cache, [1, 2])
    cache.put_features(ALICE, "cat", torch.ones(1))
    cache.clear()

    assert (cache.stats.num_entries, cache.stats.num_bytes) == (0, 0)
    assert found(cache, [1, 2, 3]) == 0


def test_the_counts_can_be_read_from_another_thread(cache: PrefixCache) -> None:
    put(cache, [1, 2])
    read: list[int] = []
    thread = threading.Thread(target=lambda: read.append(cache.stats.num_entries))
    thread.start()
    thread.join()

    assert read == [1]
