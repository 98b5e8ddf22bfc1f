"""engines.runtime.sampling: which token is chosen, with what log probability, and where text is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
            assert stops.is_stopped


def test_text_that_only_begins_a_stop_string_is_shown_in_the_end() -> None:
    stops = StopStrings(("END", ""))

    assert stops.push("the E") == "the "
    assert stops.push("N") == ""
    assert stops.finish() == "EN"
    assert not stops.is_stopped


def test_the_earliest_of_several_stop_strings_counts() -> None:
    stops = StopStrings(("three", "two"))

    assert stops.push("one two three") == "one "
    assert stops.push("more") == ""
