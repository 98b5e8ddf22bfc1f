"""engines.runtime.host_store: bytes that come back as they were, in bounded memory, with copies in the right order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.runtime import host_store
from engines.runtime.host_store import HostStore, SideStream

CPU = torch.device("cpu")


class RecordingLane:
    """Writes down in which order copies were asked for."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @contextmanager
    def down(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        self.events.append(f"down {len(tensors)}")
        yield
        self.events.append("released")

    def before_up(self) -> None:
        self.events.append("up")


def make_store(num_blocks: int = 8, block_bytes: int = 16) -> HostStore:
    return HostStore(num_blocks * block_bytes, CPU, RecordingLane(), is_pinned=False, block_bytes=block_bytes)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8]),
            st.lists(st.integers(0, 5), min_size=1, max_size=3),
        ),
        max_size=5,
    ),
    st.sampled_from([8, 24, 64]),
)
def test_tensors_come_back_as_they_were_wherever_the_blocks_cut_them(
    sizes: list[tuple[torch.dtype, list[int]]], block_bytes: int
) -> None:
    store = make_store(512, block_bytes)
    tensors = [torch.randint(0, 100, size).to(dtype) for dtype, size in sizes]
    originals = [tensor.clone() for tensor in tensors]

    stored = store.put(tensors)
    for tensor in tensors:
        tensor.zero_()  # the device's memory is somebody else's by now

    assert stored is not None
    for tensor, original in zip(store.get(stored), originals, strict=True):
        assert (tensor.dtype, tensor.shape) == (original.dtype, original.shape)
        assert torch.equal(tensor, original)
    assert store.num_bytes == store.size_of(sum(tensor.nbytes for tensor in originals))


def test_there_is_room_for_whole_blocks_and_not_for_one_more() -> None:
    # Given room for eight blocks of 16 bytes
    store = make_store()
    first = store.put([torch.ones(17, dtype=torch.uint8)])
    second = store.put([torch.ones(96, dtype=torch.uint8)])

    # When they are all taken
    assert first is not None
    assert second is not None
    assert (store.num_bytes, store.max_bytes) == (128, 128)

    # Then one more byte has no place, until somebody leaves
    assert store.put([torch.ones(1, dtype=torch.uint8)]) is None
    store.free(first)
    assert store.num_bytes == 96
    assert store.put([torch.ones(33, dtype=torch.uint8)]) is None
    assert store.put([torch.ones(32, dtype=torch.uint8)]) is not None


def test_blocks_are_allocated_when_they_are_needed_and_never_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_store, "_BLOCKS_PER_SLAB", 3)
    allocated: list[int] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, **how: allocated.append(size[0]) or empty(size, **how))
    store = make_store(8)
    assert allocated == []

    for _ in range(3):
        stored = store.put([torch.ones(60, dtype=torch.uint8)])
        assert stored is not None
        store.free(stored)
    store.put([torch.ones(128, dtype=torch.uint8)])

    assert allocated == [3, 3, 2]


def test_what_cannot_be_pinned_makes_the_store_smaller_and_no_request_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a driver that pins one slab and no more
    monkeypatch.setattr(host_store, "_BLOCKS_PER_SLAB", 2)
    store = make_store(8)
    stored = store.put([torch.ones(20, dtype=torch.uint8)])

    def refuse(*_: object, **__: object) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", refuse)

    # When more is wanted
    assert store.put([torch.ones(20, dtype=torch.uint8)]) is None

    # Then the bound is what there is, and that can be used again
    assert store.max_bytes == 32
    assert stored is not None
    store.free(stored)
    assert store.put([torch.ones(32, dtype=torch.uint8)]) is not None


def test_every_copy_back_waits_for_the_copies_before_it() -> None:
    lane = RecordingLane()
    store = HostStore(128, CPU, lane, is_pinned=False, block_bytes=16)

    stored = store.put([torch.ones(3), torch.ones(2)])
    assert stored is not None
    store.get(stored)

    assert lane.events == ["down 2", "released", "up"]


def test_the_side_stream_waits_for_the_device_and_keeps_its_memory_until_it_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a CUDA that writes down what it is asked for
    events: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            events.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        events.append(f"on {stream.name}")
        yield
        events.append("back")

    class Source:
        def record_stream(self, stream: Stream) -> None:
            events.append(f"kept for {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    lane = SideStream(torch.device("cuda:0"))

    # When something is copied down, then up
    sources: Any = [Source()]
    with lane.down(sources):
        events.append("copy down")
    lane.before_up()

    # Then neither direction reads what is not written yet
    assert events == [
        "side waits for main",
        "on side",
        "copy down",
        "back",
        "kept for side",
        "main waits for side",
    ]


def test_only_a_gpu_has_a_store_beside_it_and_its_size_follows_both_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:0")
    monkeypatch.setattr(host_store, "SideStream", lambda _device: RecordingLane())
    monkeypatch.setattr(host_store, "available_bytes", lambda: 80 * 2**20)

    assert HostStore.beside(CPU, 2**30) is None
    assert HostStore.beside(cuda, 0) is None
    small, large = HostStore.beside(cuda, 3 * 2**20), HostStore.beside(cuda, 2**30)
    assert small is not None
    assert large is not None
    assert (small.max_bytes, large.max_bytes) == (12 * 2**20, 20 * 2**20)
