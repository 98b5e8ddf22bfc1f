"""engines.runtime.sampling: which token is chosen, with what log probability, and where text is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from engines.base import GenerationFailedError, SamplingParams
from engines.runtime.sampling import Sampler, StopStrings, pick_tokens


def sampler(**params: object) -> Sampler:
    return Sampler(SamplingParams(**params))  # type: ignore[arg-type]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()

    def drawn(top_p: float) -> set[int]:
        one = sampler(temperature=1.0, top_p=top_p, seed=1)
        return {one.choose(logits).token_id for _ in range(300)}

    assert drawn(0.4) == {1}
    assert drawn(0.5) == {1, 2}
    assert drawn(1.0) == {0, 1, 2, 3}
    assert drawn(1e-9) == {1}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    one = sampler(temperature=1.0, seed=3)

    counts = torch.bincount(torch.tensor([one.choose(logits).token_id for _ in range(4000)]), minlength=3)

    torch.testing.assert_close(counts / 4000, torch.tensor([0.1, 0.6, 0.3]), atol=0.03, rtol=0)


def test_no_temperature_and_next_to_none_are_greedy() -> None:
    for temperature in (0.0, 1e-30):
        one = sampler(temperature=temperature, seed=1)
        assert {one.choose(torch.tensor([1.0, 1.01, 0.5])).token_id for _ in range(20)} == {1}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.7]), min_size=1, max_size=6))
def test_a_row_draws_the_same_tokens_whoever_is_beside_it(seed: int, temperatures: list[float]) -> None:
    # Given some rows of one step, each with a seed of its own
    logits = torch.randn(len(temperatures), 50, generator=torch.Generator().manual_seed(seed % 1000)) * 3
    rows = [
        SamplingParams(temperature=temperature, top_p=0.9, seed=seed + row)
        for row, temperature in enumerate(temperatures)
    ]

    # When they are chosen together, twice, and one by one
    together = [Sampler(params) for params in rows]
    steps = []
    for _ in range(2):
        steps.append([pick.token_id for pick in pick_tokens(logits, together)])
        for each in together:
            each.advance()
    alone = []
    for params, row in zip(rows, logits, strict=True):
        one = Sampler(params)
        alone.append([one.choose(row).token_id for _ in range(2)])

    # Then nothing differs
    assert [list(step) for step in zip(*alone, strict=True)] == steps


def test_a_step_that_is_done_again_draws_the_same_numbers() -> None:
    logits = torch.zeros(1, 1000)
    one = sampler(temperature=1.0, seed=5)

    first, again = pick_tokens(logits, [one]), pick_tokens(logits, [one])
    one.advance()

    assert first == again
    assert pick_tokens(logits, [one]) != first


def test_log_probabilities_are_those_of_the_model_before_temperature_and_top_p() -> None:
    # Given three rows, of which two want log probabilities, and not equally many
    logits = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]).log() + 4.0
    rows = [sampler(top_logprobs=2, temperature=2.0, top_p=0.5, seed=0), sampler(), sampler(top_logprobs=0)]

    first, second, third = pick_tokens(logits, rows)

    assert first.token_id == 2
    assert first.logprob == pytest.approx(torch.tensor(0.7).log().item(), abs=1e-6)
    assert [token_id for token_id, _ in first.top] == [2, 1]
    assert [logprob for _, logprob in first.top] == pytest.approx(torch.tensor([0.7, 0.2]).log().tolist(), abs=1e-6)
    assert (second.logprob, second.top) == (None, ())
    assert third.logprob == pytest.approx(torch.tensor(0.6).log().item(), abs=1e-6)
    assert third.top == ()


def chosen_by_sorting(logits: torch.Tensor, params: SamplingParams) -> int:
    """The definition, in the open: order all tokens, keep top_k, keep top_p of those, invert at the number drawn."""
    probabilities = (logits.float() / (params.temperature or 1.0)).softmax(-1)
    order = sorted(range(len(logits)), key=lambda token_id: (-probabilities[token_id].item(), token_id))
    kept = probabilities[order[: params.top_k or None]]
    ends = kept.cumsum(-1)
    wanted = params.top_p * (ends[-1].item() if params.top_k else 1.0)
    num_kept = max(1, int((ends - kept < torch.tensor(wanted, dtype=torch.float32)).sum()))
    drawn = torch.rand((), generator=torch.Generator().manual_seed(params.seed or 0), dtype=torch.float64).float()
    index = int((ends[:num_kept] <= drawn * ends[num_kept - 1]).sum())
    return order[min(index, num_kept - 1)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.3, 2.0, 8.0]),
    st.sampled_from([(0.1, 0), (0.9, 0), (0.999, 0), (1.0, 2), (0.6, 2), (0.5, 600), (1.0, 600)]),
)
def test_looking_at_the_likeliest_few_chooses_as_sorting_all_does(
    seed: int, spread: float, limits: tuple[float, int]
) -> None:
    # Given more tokens than are looked at, with many equals among them, as bfloat16 makes them
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, 1500, generator=generator) * spread).bfloat16()
    rows = [SamplingParams(temperature=0.9, top_p=limits[0], top_k=limits[1], seed=seed + row) for row in range(3)]

    picks = pick_tokens(logits, [Sampler(params) for params in rows])

    assert [pick.token_id for pick in picks] == [
        chosen_by_sorting(row, params) for row, params in zip(logits, rows, strict=True)
    ]


def test_a_vocabulary_is_not_sorted_for_an_answer_that_is_nearly_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    for name in ("sort", "argsort"):
        original = getattr(torch.Tensor, name)

        def watch(tensor: torch.Tensor, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            widths.append(tensor.shape[-1])
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, watch)
    logits = torch.randn(2, 151_552, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, 7] = 25.0

    for top_p in (0.6, 1.0):
        picks = pick_tokens(logits, [sampler(temperature=0.8, top_p=top_p, seed=seed) for seed in range(2)])
        assert [pick.token_id for pick in picks] == [7, 7]

    assert max(widths) <= 512


def test_what_is_impossible_is_never_drawn() -> None:
    # Given tokens that may not be chosen at both ends, and one of next to no weight between them
    logits = torch.full((600,), float("-inf"))
    logits[300:303] = torch.tensor([5.0, 5.0, -30.0])

    for top_p in (0.9, 1.0):
        one = sampler(temperature=1.0, top_p=top_p, seed=2)
        assert {one.choose(logits).token_id for _ in range(100)} == {300, 301}


def test_penalties_are_those_of_openai_and_transformers() -> None:
    logits = torch.tensor([2.0, -1.0, 3.0, 0.5])

    # Given an answer that has said 2 twice and 0 once, behind a prompt with a 1
    one = Sampler(SamplingParams(frequency_penalty=0.5, presence_penalty=0.25))
    repeating = Sampler(SamplingParams(repetition_penalty=1.3), [1])
    for each in (one, repeating):
        for token_id in (2, 0, 2):
            each.advance(token_id)

    # Then the answer's own are counted, or prompt and answer are once
    assert one.penalize(logits).tolist() == pytest.approx([2.0 - 0.75, -1.0, 3.0 - 1.25, 0.5])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[1, 2, 0, 2]]), logits[None])
    assert repeating.penalize(logits).tolist() == pytest.approx(expected[0].tolist())
    assert logits.tolist() == [2.0, -1.0, 3.0, 0.5]


def test_a_penalty_ends_a_loop_and_leaves_the_log_probabilities_and_the_neighbours_alone() -> None:
    logits = torch.tensor([[3.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
    rows = [sampler(frequency_penalty=0.6, top_logprobs=0), sampler(top_logprobs=0)]

    said: list[list[int]] = [[], []]
    for _ in range(4):
        for row, (one, pick) in enumerate(zip(rows, pick_tokens(logits, rows), strict=True)):
            said[row].append(pick.token_id)
            assert pick.logprob == pytest.approx(logits[row].log_softmax(-1)[pick.token_id].item())
            one.advance(pick.token_id)

    assert said == [[0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_finite_logits_fails_alone(broken: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0], [0.0, broken, 0.0]])

    good, bad = pick_tokens(logits, [sampler(temperature=temperature, top_p=0.5, seed=1) for _ in range(2)])

    good.check()
    assert good.token_id == 1
    with pytest.raises(GenerationFailedError, match="overflowed"):
        bad.check()
    with pytest.raises(GenerationFailedError, match="overflowed"):
        sampler(temperature=temperature, seed=1).choose(logits[1])


def test_a_seed_may_be_any_integer() -> None:
    logits = torch.zeros(1000)

    chosen = [sampler(temperature=1.0, seed=seed).choose(logits).token_id for seed in (-8, -8, 2**70)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_stop_strings_are_cut_wherever_the_pieces_break() -> None:
    text, stop = "one, two END three", "END"
    for first in range(len(text)):
        for second in range(first, len(text)):
            stops = StopStrings((stop, "never"))
            shown = "".join(stops.push(piece) for piece in (text[:first], text[first:second], text[second:]))

            assert shown + stops.finish() == "one, two "
            assert stops.found == stop


def test_text_that_only_begins_a_stop_string_is_shown_in_the_end() -> None:
    stops = StopStrings(("END", ""))

    assert stops.push("the E") == "the "
    assert stops.push("N") == ""
    assert stops.finish() == "EN"
    assert not stops.found


def test_the_earliest_of_several_stop_strings_counts() -> None:
    stops = StopStrings(("three", "two"))

    assert stops.push("one two three") == "one "
    assert stops.push("more") == ""
