"""engines.runtime.prefix_cache: what is found again, by whom, and what has to go."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import crc32

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.runtime.host_store import HostStore, Stored
from engines.runtime.prefix_cache import MAX_PICTURES, MAX_PREFIXES, CacheScope, ImageSpan, PrefixCache, TokenSequence

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


def test_a_beginning_in_use_outlives_the_conversation_that_goes_on_from_it(cache: PrefixCache) -> None:
    put(cache, [1, 2, 3])

    # Given a request that computes from the beginning
    with cache.longest_prefix(ALICE, TokenSequence([1, 2, 3, 9]), 3) as prefix:
        assert prefix is not None
        # When another request has gone on from it
        put(cache, [1, 2, 3, 4, 5])
        # Then both are counted, since the memory of both is in use
        assert cache.stats.num_entries == 2
        assert cache.stats.num_bytes == 8 * BYTES_PER_TOKEN

    # And the next one replaces both
    put(cache, [1, 2, 3, 4, 5, 6])
    assert cache.stats.num_entries == 1
    assert cache.stats.num_bytes == 6 * BYTES_PER_TOKEN


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


def test_the_counts_say_what_the_cache_was_good_for(cache: PrefixCache) -> None:
    put(cache, [1, 2, 3])
    cache.put_features(ALICE, "cat", torch.ones(1))
    cache.get_features(ALICE, "cat")
    cache.get_features(ALICE, "dog")
    found(cache, [1, 2, 3, 4])

    said = cache.stats.describe()

    assert "1 of 2 pictures found, 3 prompt tokens not read again" in said
    assert "0 entries left the device" in said


def test_the_counts_can_be_read_from_another_thread(cache: PrefixCache) -> None:
    put(cache, [1, 2])
    read: list[int] = []
    thread = threading.Thread(target=lambda: read.append(cache.stats.num_entries))
    thread.start()
    thread.join()

    assert read == [1]


# -- the second tier --------------------------------------------------------------------------------------------------


class NoWaiting:
    """On the CPU a copy is through when it returns."""

    @contextmanager
    def down(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        yield

    def before_up(self) -> None:
        pass


def make_two_tiers(num_tokens: int = 100, num_host_tokens: int = 200) -> tuple[PrefixCache, HostStore]:
    host = HostStore(
        num_host_tokens * BYTES_PER_TOKEN,
        torch.device("cpu"),
        NoWaiting(),
        is_pinned=False,
        block_bytes=BYTES_PER_TOKEN,
    )
    return PrefixCache(num_tokens * BYTES_PER_TOKEN, host), host


def test_what_has_to_leave_the_device_is_found_on_the_host_and_moves_back() -> None:
    # Given a picture and a conversation that fill the device
    cache, host = make_two_tiers()
    picture = torch.arange(40 * BYTES_PER_TOKEN // 4, dtype=torch.float32)
    cache.put_features(ALICE, "picture", picture.clone())
    put(cache, [1] * 60)

    # When another conversation needs the room
    put(cache, [2] * 90)

    # Then both went to the host
    assert cache.stats.num_bytes == 90 * BYTES_PER_TOKEN
    assert cache.stats.num_host_bytes == host.num_bytes == 100 * BYTES_PER_TOKEN
    assert (cache.stats.num_entries, cache.stats.num_evictions, cache.stats.num_spills) == (3, 2, 2)

    # And they come back as they were, in exchange for what lies on the device
    features = cache.get_features(ALICE, "picture")
    assert features is not None
    assert torch.equal(features, picture)
    with cache.longest_prefix(ALICE, TokenSequence([1] * 61), 60) as prefix:
        assert prefix is not None
        keys, values = prefix.layers[0]
        assert torch.equal(keys, layers_of(60)[0][0])
        assert torch.equal(values, layers_of(60)[0][1])
    assert cache.stats.num_bytes == 100 * BYTES_PER_TOKEN
    assert cache.stats.num_host_bytes == host.num_bytes == 90 * BYTES_PER_TOKEN
    assert cache.stats.num_host_hits == 2
    assert cache.stats.num_host_evictions == 0


def test_on_the_host_too_the_least_recently_used_go_first() -> None:
    cache, host = make_two_tiers(num_tokens=50, num_host_tokens=100)
    for id_ in (1, 2, 3, 4):
        put(cache, [id_] * 50)

    assert [found(cache, [id_] * 51) for id_ in (1, 4, 3, 2)] == [0, 50, 50, 50]
    assert cache.stats.num_host_evictions == 1
    assert host.num_bytes == 100 * BYTES_PER_TOKEN


def test_what_is_larger_than_the_host_goes_for_good_and_costs_nobody_his_place() -> None:
    cache, _ = make_two_tiers(num_tokens=100, num_host_tokens=30)
    put(cache, [1] * 20)
    put(cache, [2] * 90)
    put(cache, [3] * 80)

    assert [found(cache, [id_] * 91) for id_ in (1, 2, 3)] == [20, 0, 80]
    assert cache.stats.num_host_evictions == 0


def test_on_the_host_nothing_is_found_across_scopes() -> None:
    cache, _ = make_two_tiers()
    put(cache, [1] * 60)
    cache.put_features(ALICE, "picture", torch.ones(30 * BYTES_PER_TOKEN // 4))
    put(cache, [2] * 100)
    bob = CacheScope("bob", "model")

    assert found(cache, [1] * 61, bob) == 0
    assert cache.get_features(bob, "picture") is None
    assert cache.stats.num_host_hits == 0


def test_an_entry_in_use_stays_on_the_device_whatever_comes() -> None:
    cache, _ = make_two_tiers()
    put(cache, [1] * 60)
    put(cache, [2] * 60)  # which sends the first to the host

    with cache.longest_prefix(ALICE, TokenSequence([1] * 61), 60) as prefix:
        assert prefix is not None
        put(cache, [3] * 90)
        put(cache, [4] * 90)
        cache.clear()
        assert torch.equal(prefix.layers[0][0], layers_of(60)[0][0])
        assert cache.stats.num_entries == 1

    assert cache.stats.num_bytes == 60 * BYTES_PER_TOKEN
    assert cache.stats.num_host_bytes == 0


def test_a_conversation_that_goes_on_replaces_its_beginning_on_the_host() -> None:
    cache, host = make_two_tiers()
    put(cache, [1] * 60)
    put(cache, [2] * 60)
    put(cache, [1] * 61)

    assert (cache.stats.num_entries, cache.stats.num_host_bytes) == (2, 60 * BYTES_PER_TOKEN)
    assert host.num_bytes == 60 * BYTES_PER_TOKEN  # of the second, which had to leave for it
    assert found(cache, [2] * 61) == 60


def test_a_device_without_room_for_what_comes_back_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an entry on the host
    cache, host = make_two_tiers()
    put(cache, [1] * 60)
    put(cache, [2] * 60)

    # When the device has no memory for it
    with monkeypatch.context() as patched:

        def refuse(_stored: Stored) -> tuple[Tensor, ...]:
            raise torch.OutOfMemoryError("no memory")

        patched.setattr(host, "get", refuse)
        with pytest.raises(torch.OutOfMemoryError):
            found(cache, [1] * 61)

    # Then it is still there, and nothing is held for ever
    assert found(cache, [1] * 61) == 60
    cache.clear()
    assert cache.stats.num_entries == cache.stats.num_bytes == cache.stats.num_host_bytes == host.num_bytes == 0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_budgets_hold_and_what_is_found_is_what_was_put_whatever_happens(data: st.DataObject) -> None:
    # Given tiers of any size, and conversations that often begin alike
    cache, host = make_two_tiers(data.draw(st.integers(0, 12)), data.draw(st.integers(0, 20)))
    budget, host_budget = cache._max_bytes, host.max_bytes
    scopes = st.sampled_from([ALICE, CacheScope("bob", "model")])
    sequences = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=9)

    def layers(scope: CacheScope, ids: list[int]) -> list[tuple[Tensor, Tensor]]:
        # Each token's numbers tell of all tokens up to it, and of whose they are.
        sums = torch.tensor(
            [crc32(f"{scope.caller} {ids[: end + 1]}".encode()) % 1000 for end in range(len(ids))]
        ).float()
        keys = sums[None, None, :, None].expand(1, 2, -1, 3).clone()
        return [(keys, -keys)]

    def check() -> None:
        entries = cache._entries.values()
        on_device = [entry for entry in entries if entry.stored is None]
        assert cache.stats.num_bytes == sum(entry.num_bytes for entry in on_device)
        assert cache.stats.num_bytes == sum(tensor.nbytes for entry in on_device for tensor in entry.tensors)
        assert cache.stats.num_host_bytes == host.num_bytes <= host_budget
        assert cache.stats.num_entries == len(entries)
        held = sum(entry.num_bytes for entry in entries if entry.num_pins)
        assert cache.stats.num_bytes <= max(budget, held)
        assert all(not entry.tensors for entry in entries if entry.stored is not None)

    # When anything is put, found, held and cleared in any order
    for _ in range(data.draw(st.integers(1, 12))):
        scope, ids = data.draw(scopes), data.draw(sequences)
        match data.draw(st.sampled_from(["put", "put", "find", "hold", "picture", "clear"])):
            case "put":
                cache.put_prefix(scope, TokenSequence(ids), layers(scope, ids))
            case "picture":
                name = "".join(map(str, ids[:2]))
                known = cache.get_features(scope, name)
                expected = layers(scope, ids[:2])[0][0].flatten()
                assert known is None or torch.equal(known, expected)
                cache.put_features(scope, name, expected)
            case "clear":
                cache.clear()
                assert not cache._entries
            case action:
                with cache.longest_prefix(scope, TokenSequence(ids), len(ids)) as prefix:
                    if action == "hold":
                        other = data.draw(sequences)
                        cache.put_prefix(scope, TokenSequence(other), layers(scope, other))
                        check()
                    if prefix is not None:
                        expected = layers(scope, ids)[0][0][:, :, : prefix.num_tokens]
                        # Then both budgets hold, and only what was computed from the same is ever found
                        assert torch.equal(prefix.layers[0][0], expected)
                        assert torch.equal(prefix.layers[0][1], -expected)
        check()


def test_small_beginnings_are_bounded_in_number_and_the_latest_used_stay() -> None:
    # Given room for any number of bytes, and more beginnings than are worth comparing with, of two callers
    cache = PrefixCache(1 << 30)
    bob = CacheScope("bob", "model")
    put(cache, [1, 2, 3])
    for number in range(MAX_PREFIXES - 1):
        put(cache, [100 + number, 2, 3], bob if number % 2 else ALICE)
    assert cache.stats.num_entries == MAX_PREFIXES
    assert found(cache, [1, 2, 3, 4]) == 3

    # When more come
    put(cache, [7, 8, 9])
    put(cache, [8, 8, 9])

    # Then those that were not used for longest are gone, and what was found a moment ago is there
    assert cache.stats.num_entries == MAX_PREFIXES
    assert cache.stats.num_evictions == 2
    assert found(cache, [100, 2, 3, 4]) == found(cache, [101, 2, 3, 4], bob) == 0
    assert found(cache, [1, 2, 3, 4]) == found(cache, [102, 2, 3, 4]) == 3


def test_what_is_held_does_not_count_as_room_to_make() -> None:
    cache = PrefixCache(1 << 30)
    put(cache, [1, 2, 3])
    with cache.longest_prefix(ALICE, TokenSequence([1, 2, 3, 4]), 3) as prefix:
        assert prefix is not None
        for number in range(MAX_PREFIXES + 5):
            put(cache, [100 + number, 2, 3])
        assert found(cache, [1, 2, 3, 4]) == 3
    assert cache.stats.num_entries == MAX_PREFIXES


def test_small_pictures_are_bounded_in_number() -> None:
    cache = PrefixCache(1 << 30)
    put(cache, [1, 2, 3])
    for number in range(MAX_PICTURES + 2):
        cache.put_features(ALICE, str(number), torch.zeros(1))

    assert cache.stats.num_entries == MAX_PICTURES + 1
    assert cache.get_features(ALICE, "1") is None
    assert cache.get_features(ALICE, "2") is not None
    assert found(cache, [1, 2, 3, 4]) == 3
