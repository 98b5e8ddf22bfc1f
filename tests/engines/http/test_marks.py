"""GLM's marks in the text of servers of other makes, whole and split over pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Delta, FinishReason, GenerationRequest, Message, TextPart, TokenLogprob
from engines.http.marks import AnswerMarks

ENDS = ("<|user|>", "<|endoftext|>", "<|assistant|>", "<|observation|>", "<|system|>")


def request(*, may_think: bool) -> GenerationRequest:
    return GenerationRequest((Message("user", (TextPart("?"),)),), enable_thinking=may_think)


def read(
    said: str, size: int = 1000, *, may_think: bool = False, end: FinishReason = "stop", told: str = ""
) -> tuple[str, str, bool]:
    """Return the text, the reasoning, and whether the turn was over, of a text in pieces of a size."""
    reader = AnswerMarks(request(may_think=may_think))
    deltas = [reader.read(Delta(reasoning=told))] if told else []
    deltas += [reader.read(Delta(text=said[start : start + size])) for start in range(0, len(said), size)]
    deltas.append(reader.finish(end))
    text, reasoning = "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas)
    return text, reasoning, reader.is_over


SIZES = pytest.mark.parametrize("size", [1, 2, 5, 1000])


@SIZES
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Red{end}", "Red"),
        ("Red\n{end}\nWhat colour is the sky?<|assistant|>\nBlue", "Red\n"),
        ("a < b, <|x|>, <|use{end} no", "a < b, <|x|>, <|use"),
        ("[1, 2]{end}[3", "[1, 2]"),
        ("<think>hm</think>\nRed{end}", "Red"),
    ],
)
def test_an_answer_ends_where_the_model_ended_its_turn(said: str, text: str, end: str, size: int) -> None:
    assert read(said.format(end=end), size)[::2] == (text, True)


@SIZES
@pytest.mark.parametrize("said", ["Red <|user", "1 <| 2", "<|users|> and <|system", "<", "<|end_of_boxes", "x</thin"])
def test_what_only_begins_like_a_mark_is_text(said: str, size: int) -> None:
    assert read(said, size) == (said, "", False)


@SIZES
@pytest.mark.parametrize(
    "opening", ["<|assistant|>", "<|assistant|>\n", "\n<|assistant|>\n\n", "<|assistant|><|assistant|>\n"]
)
def test_the_prompts_last_mark_before_the_first_word_ends_nothing(opening: str, size: int) -> None:
    assert read(f"{opening}Red<|user|>\nWhy?", size) == ("Red", "", True)
    assert read(f"{opening}Red", size) == ("Red", "", False)


@SIZES
@pytest.mark.parametrize("end", ENDS)
def test_a_turn_may_end_in_the_reasoning(end: str, size: int) -> None:
    reader = AnswerMarks(request(may_think=True))
    said = f"let me see{end}Red"
    told = [reader.read(Delta(reasoning=said[at : at + size])).reasoning for at in range(0, len(said), size)]

    assert reader.is_over
    assert reader.read(Delta(text="Red")) == Delta()
    assert "".join(told) + reader.finish("stop").reasoning == "let me see"


def test_a_token_that_ended_the_turn_has_no_log_probability() -> None:
    reader = AnswerMarks(request(may_think=False))
    red, end, sky = (TokenLogprob(token, -0.1, token.encode()) for token in ("Red", "<|user|>", "sky"))

    assert reader.read(Delta(text="Red<|user|>sky", logprobs=(red, end, sky))) == Delta(text="Red", logprobs=(red,))
    assert reader.read(Delta(text="sky", logprobs=(sky,))) == Delta()


@SIZES
@pytest.mark.parametrize(
    ("said", "text", "thought"),
    [
        ("I see red.</think>\nRed", "Red", "I see red."),
        ("I see red.</think>\n\n\nRed</think>", "Red", "I see red."),
        ("\nhm</think>Red <think>x</think>", "Red <think>x</think>", "\nhm"),
        ("<think>hm</think>\nRed</think>", "Red", "hm"),
        ("</think>Red", "Red", ""),
        ("Red", "Red", ""),
        ("Red </thin", "Red </thin", ""),
        ("Write <think>x</think> then", "Write <think>x</think> then", ""),
        ("hm<|user|>", "hm", ""),
        ("hm</think>\nRed<|user|>\nWhy?", "Red", "hm"),
    ],
)
def test_thinking_without_its_opening_tag_is_no_answer(said: str, text: str, thought: str, size: int) -> None:
    assert read(said, size, may_think=True)[:2] == (text, thought)


def test_nothing_of_what_may_be_thought_is_sent_as_the_answer() -> None:
    reader = AnswerMarks(request(may_think=True))

    assert reader.read(Delta(text="I see")) == Delta()
    assert reader.read(Delta(text=" red.</th")) == Delta()
    assert reader.read(Delta(text="ink>\nRed")) == Delta(text="Red", reasoning="I see red.")
    assert reader.read(Delta(text=" it is")) == Delta(text=" it is")


@SIZES
def test_thinking_that_was_cut_before_its_closing_tag_is_no_answer(size: int) -> None:
    assert read("I see red and", size, may_think=True, end="length") == ("", "I see red and", False)
    assert read("I see red and", size, may_think=False, end="length") == ("I see red and", "", False)


@SIZES
def test_a_server_that_tells_reasoning_apart_is_believed(size: int) -> None:
    assert read("\nRed", size, may_think=True, told="hm", end="length") == ("Red", "hm", False)
    reader = AnswerMarks(request(may_think=True))
    reader.read(Delta(reasoning="hm"))
    assert reader.read(Delta(text="Red")).text == "Red"


@SIZES
@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Red</think>", "Red"),
        ("</think>\n\nRed", "Red"),
        ("\n</think>\nRed", "Red"),
        ("It is </think>red</think>.", "It is red."),
        ("Use <think> and </think>, not </think>", "Use <think> and </think>, not "),
    ],
)
def test_without_thinking_a_closing_tag_alone_is_dropped(said: str, text: str, size: int) -> None:
    assert read(said, size) == (text, "", False)


@given(st.text(st.sampled_from("<|/> \nabuserthink"), max_size=40), st.integers(1, 7), st.booleans())
def test_pieces_make_no_difference(said: str, size: int, may_think: bool) -> None:
    assert read(said, size, may_think=may_think) == read(said, may_think=may_think)
