"""engines.runtime.kv_cache: rows keep their own keys and values, whoever joins and leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.runtime.kv_cache import KVBatch, KVPrompt, KVShape, memory_errors

SHAPE = KVShape(num_layers=2, num_heads=3, head_dim=4, dtype=torch.float32, device=torch.device("cpu"))


def tokens_of(row: int, start: int, stop: int, layer: int) -> Tensor:
    """Keys that tell their row, place and layer; (1, heads, n, head_dim)."""
    places = torch.arange(start, stop, dtype=torch.float32)[:, None].expand(-1, 4)
    return (1 + row * 10_000 + layer * 1000 + places).expand(1, 3, -1, -1).clone()


def prompt_of(row: int, length: int) -> KVPrompt:
    prompt = KVPrompt(SHAPE, length)
    for layer in range(2):
        prompt.update(tokens_of(row, 0, length, layer), -tokens_of(row, 0, length, layer), layer)
    prompt.advance(length)
    return prompt


def test_a_prompt_is_filled_in_pieces_behind_what_is_known() -> None:
    # Given a prompt of five of which two are known
    known = prompt_of(0, 2)
    prompt = KVPrompt(SHAPE, 5)
    prompt.load(known.layers, 2)

    # When the rest is read in two pieces
    for start, stop in ((2, 3), (3, 5)):
        for layer in range(2):
            keys, values = prompt.update(tokens_of(0, start, stop, layer), -tokens_of(0, start, stop, layer), layer)
            torch.testing.assert_close(keys, tokens_of(0, 0, stop, layer))
            torch.testing.assert_close(values, -tokens_of(0, 0, stop, layer))
        prompt.advance(stop - start)

    # Then everything is there
    assert prompt.num_done == 5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_keep_their_own_whoever_joins_and_leaves(data: st.DataObject) -> None:
    # Given an empty batch, and what should be in it: the name of each row
    batch = KVBatch(SHAPE, max_rows=5)
    names: list[int] = []

    for name in range(data.draw(st.integers(1, 20))):
        action = data.draw(st.sampled_from(["join", "step", "step", "some", "leave"]))
        if action == "join" and len(names) < 5:
            length = data.draw(st.integers(1, 90))
            names.append(name)
            assert batch.join(prompt_of(name, length), length + data.draw(st.integers(1, 40))) == len(names) - 1
        elif action == "leave" and names:
            row = data.draw(st.integers(0, len(names) - 1))
            batch.leave(row)
            names[row] = names[-1]
            names.pop()
        elif names:
            # When all rows, or some in any order, go on by a token
            rows = list(range(len(names)))
            if action == "some":
                rows = data.draw(st.permutations(rows))[: data.draw(st.integers(1, len(rows)))]
            step = batch.begin_step(rows)
            for layer in range(2):
                new = torch.cat(
                    [tokens_of(names[row], batch.lengths[row], batch.lengths[row] + 1, layer) for row in rows]
                )
                keys, values = step.update(new, -new, layer)
                # Then each sees its own tokens, and nothing is behind them
                for index, row in enumerate(rows):
                    length = batch.lengths[row] + 1
                    torch.testing.assert_close(
                        keys[index : index + 1, :, :length], tokens_of(names[row], 0, length, layer)
                    )
                    torch.testing.assert_close(values, -keys)
                    assert not keys[index, :, length:].any()
                    if step.mask is None:
                        assert length == step.width
                    else:
                        assert torch.equal(step.mask[index, 0, 0] == 0, torch.arange(step.width) < length)
            step.advance()
        for row, name_ in enumerate(names):
            for layer, (keys, _) in enumerate(batch.views(row)):
                torch.testing.assert_close(keys, tokens_of(name_, 0, batch.lengths[row], layer))


def test_a_whole_batch_is_read_where_it_lies() -> None:
    batch = KVBatch(SHAPE, max_rows=4)
    for name in range(3):
        batch.join(prompt_of(name, 5), 50)
    batch.leave(0)

    step = batch.begin_step([0, 1])
    keys, _ = step.update(torch.ones(2, 3, 1, 4), torch.ones(2, 3, 1, 4), 0)

    assert keys.data_ptr() == batch._layers[0][0].data_ptr()


@pytest.mark.parametrize("leaving", [0, 1])
def test_nothing_of_a_row_that_left_is_behind_the_one_that_takes_its_place(leaving: int) -> None:
    # Given two long rows, one of which leaves
    batch = KVBatch(SHAPE, max_rows=2)
    for name in range(2):
        batch.join(prompt_of(name, 30), 40)
    batch.leave(leaving)

    # When a short one comes
    batch.join(prompt_of(2, 3), 40)

    # Then what it may not look at is zero
    step = batch.begin_step([0, 1])
    keys, values = step.update(torch.ones(2, 3, 1, 4), torch.ones(2, 3, 1, 4), 0)
    assert not keys[1, :, 4:].any()
    assert not values[1, :, 4:].any()


@pytest.mark.parametrize("first_max_length", [3, 4, 60])
def test_what_a_row_holds_is_always_a_part_of_something_larger(first_max_length: int) -> None:
    # Given a batch whose first row could not become long, and had room for just that
    batch = KVBatch(SHAPE, max_rows=1)
    batch.join(prompt_of(0, 2), first_max_length)
    batch.leave(0)

    # When a longer row takes its place and grows
    batch.join(prompt_of(1, 2), 200)
    for _ in range(198):
        # Then a cache that takes over whole tensors copies at every length
        for keys, values in batch.views(0):
            assert keys.untyped_storage().nbytes() > keys.nbytes
            assert values.untyped_storage().nbytes() > values.nbytes
        step = batch.begin_step([0])
        for layer in range(2):
            step.update(torch.ones(1, 3, 1, 4), torch.ones(1, 3, 1, 4), layer)
        step.advance()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_whatever_torch_calls_a_lack_of_memory_is_a_memory_error(error: Exception) -> None:
    with pytest.raises(MemoryError) as caught, memory_errors():
        raise error

    assert caught.value.__cause__ is error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_errors():
        raise RuntimeError("shape mismatch")


def test_an_empty_batch_gives_its_memory_back_when_asked() -> None:
    batch = KVBatch(SHAPE, max_rows=4)
    batch.join(prompt_of(0, 5), 50)
    batch.release()
    assert batch._layers[0][0].numel() > 0

    batch.leave(0)
    batch.release()

    assert batch._layers[0][0].numel() == 0
    assert SHAPE.bytes_per_token == 2 * 2 * 3 * 4 * 4
