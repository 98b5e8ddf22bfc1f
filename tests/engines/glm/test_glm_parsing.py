from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engines.base import Box, Delta, Usage
from engines.boxes import BoxReader
from engines.glm.decoding import Answer
from engines.glm.parsing import AnswerParser, BoxMarks, ReasoningSplitter, StreamDetokenizer, TokenBytes
from engines.runtime.sampling import Pick

THINK, THINK_END, BOX, BOX_END = 900, 901, 902, 903


class Characters:
    """A detokenizer whose ids are code points, so that tests read like text."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


def parse(ids: Iterable[int | str], stop: Sequence[str] = ()) -> tuple[str, str, AnswerParser]:
    """Run ids (strings stand for their characters) through a parser; return reasoning, text and the parser."""
    parser = AnswerParser(ReasoningSplitter(THINK, THINK_END, {BOX, BOX_END}), Characters, stop)
    deltas: list[Delta | None] = []
    for item in ids:
        deltas += [parser.push(id_) for id_ in ([item] if isinstance(item, int) else map(ord, item))]
    deltas.append(parser.finish())
    kept = [delta for delta in deltas if delta is not None]
    assert all(delta.text or delta.reasoning for delta in kept)
    return "".join(d.reasoning for d in kept), "".join(d.text for d in kept), parser


def test_without_marks_everything_is_the_answer() -> None:
    assert parse(["two\n lines\n"])[:2] == ("", "two\n lines\n")


def test_thinking_goes_to_reasoning_and_the_newlines_around_it_are_dropped() -> None:
    reasoning, text, parser = parse([THINK, "\nred?", THINK_END, "\n\nA red circle."])

    assert (reasoning, text) == ("red?", "A red circle.")
    assert parser.num_reasoning_tokens == len("\nred?") + 2


def test_thinking_that_never_ends_is_all_reasoning() -> None:
    assert parse([THINK, "and so on"])[:2] == ("and so on", "")


def test_empty_thinking_leaves_no_trace() -> None:
    assert parse([THINK, THINK_END, "\nyes"])[:2] == ("", "yes")


def test_a_stray_end_mark_is_swallowed_and_costs_no_reasoning() -> None:
    reasoning, text, parser = parse(["a", THINK_END, "b"])

    assert (reasoning, text, parser.num_reasoning_tokens) == ("", "ab", 0)


def test_box_marks_are_stripped_wherever_they_stand() -> None:
    assert parse([THINK, BOX, "1", BOX_END, THINK_END, "\n", BOX, "42", BOX_END])[:2] == ("1", "42")


def test_think_marks_written_as_characters_are_text() -> None:
    assert parse(["<think>no</think>"])[:2] == ("", "<think>no</think>")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("aab", ["ab"], "a"),
        ("a first, b later", ["b", "first"], "a "),
        ("never", ["xyz"], "never"),
        ("ends in a prefix EN", ["END"], "ends in a prefix EN"),
        ("图片。结束。", ["。结"], "图片"),
        ("anything", [""], "anything"),
    ],
)
def test_the_answer_ends_before_the_first_stop_string(text: str, stop: list[str], expected: str) -> None:
    _, answer, parser = parse([text], stop)

    assert answer == expected
    assert bool(parser.stopped_by) == (expected != text)


def test_stop_strings_are_not_looked_for_in_the_reasoning() -> None:
    assert parse([THINK, "END", THINK_END, "x END"], ["END"])[:2] == ("END", "x ")


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    """One token per byte, the hardest case for a detokenizer, and one special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def test_characters_appear_whole_and_special_tokens_never(byte_tokenizer: Tokenizer) -> None:
    detokenizer = StreamDetokenizer(byte_tokenizer)
    ids = byte_tokenizer.encode("a 红😀<end>!", add_special_tokens=False).ids

    pieces = [piece for id_ in ids if (piece := detokenizer.push(id_))] + [detokenizer.flush()]

    assert pieces == ["a", " ", "红", "😀", "!", ""]


def test_a_character_cut_off_at_the_end_is_flushed_as_a_replacement(byte_tokenizer: Tokenizer) -> None:
    detokenizer = StreamDetokenizer(byte_tokenizer)
    ids = byte_tokenizer.encode("a红").ids[:-1]

    assert "".join(detokenizer.push(id_) for id_ in ids) == "a"
    assert detokenizer.flush() == "\ufffd"


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize(("num_more", "shown"), [(-2, "a"), (-1, "a"), (0, "a红"), (1, "a红\ufffd")])
def test_half_a_character_is_shown_only_if_the_model_ended_with_it(
    byte_tokenizer: Tokenizer, num_more: int, shown: str, thinks: bool
) -> None:
    ids = byte_tokenizer.encode("a红红").ids[: 4 + num_more]
    splitter = ReasoningSplitter(THINK, THINK_END, {BOX, BOX_END})
    parser = AnswerParser(splitter, lambda: StreamDetokenizer(byte_tokenizer))
    ids = [THINK, *ids] if thinks else ids
    if is_ended := num_more > 0:
        ids = [*ids, BOX]
    answer = Answer(parser, TokenBytes(byte_tokenizer), {BOX}, max_tokens=len(ids))

    deltas = [answer.push(Pick(id_, -1.0)) for id_ in ids] + [answer.finish(Usage())]

    assert answer.finish_reason == ("stop" if is_ended else "length")
    told = [delta for delta in deltas if delta is not None]
    assert "".join(delta.reasoning if thinks else delta.text for delta in told) == shown
    # Every token of an answer has its log probability, whatever is shown of it.
    assert sum(len(delta.logprobs) for delta in told) == (0 if thinks else 4 + num_more)


def test_streamed_pieces_join_to_the_whole_text_for_any_ids(byte_tokenizer: Tokenizer) -> None:
    generator = random.Random(0)
    for _ in range(200):
        ids = [generator.randrange(257) for _ in range(generator.randint(1, 60))]
        detokenizer = StreamDetokenizer(byte_tokenizer)

        streamed = "".join(detokenizer.push(id_) for id_ in ids) + detokenizer.flush()

        assert streamed == byte_tokenizer.decode(ids, skip_special_tokens=True)


def parse_boxes(
    *ids: int | str, sizes: Sequence[tuple[int, int]] = ((200, 100),), stop: Sequence[str] = ()
) -> list[tuple[str, tuple[Box, ...]]]:
    """Run ids through a parser that reads boxes; return the texts and the boxes of its deltas."""
    marks = BoxMarks(BOX, BOX_END, BoxReader(lambda: sizes), Characters)
    parser = AnswerParser(ReasoningSplitter(THINK, THINK_END, {BOX, BOX_END}), Characters, stop, marks)
    deltas: list[Delta | None] = []
    for item in ids:
        for id_ in [item] if isinstance(item, int) else map(ord, item):
            if not parser.stopped_by:
                deltas.append(parser.push(id_))
    deltas.append(parser.finish())
    return [(delta.text, delta.boxes) for delta in deltas if delta is not None and (delta.text or delta.boxes)]


def test_a_box_comes_when_its_end_mark_does_and_its_text_streams_as_ever() -> None:
    said = parse_boxes("at ", BOX, "[[0,0,500,500]]", BOX_END, ".")

    assert "".join(text for text, _ in said) == "at [[0,0,500,500]]."
    assert [boxes for _, boxes in said if boxes] == [(Box(0.0, 0.0, 100.0, 50.0, 0),)]
    assert said[-2] == ("", (Box(0.0, 0.0, 100.0, 50.0, 0),))


def test_several_pairs_of_marks_and_several_boxes_in_one_are_all_read() -> None:
    said = parse_boxes(BOX, "[[0,0,1,1],[2,2,3,3]]", BOX_END, " and ", BOX, "[4,4,5,5]", BOX_END)

    assert [len(boxes) for _, boxes in said if boxes] == [2, 1]


@pytest.mark.parametrize(
    "ids",
    [
        ("[0,0,500,500]",),
        (BOX, "42", BOX_END),
        (BOX, "[0,0,500]", BOX_END),
        (BOX, "[0,0,500,500]"),
        ("[0,0,500,500]", BOX_END),
        (THINK, BOX, "[0,0,500,500]", BOX_END, THINK_END, "no"),
        (THINK, BOX, "[0,0,500,500]", THINK_END, BOX_END, "no"),
    ],
)
def test_without_both_marks_around_coordinates_in_the_answer_there_is_no_box(ids: tuple[int | str, ...]) -> None:
    assert not any(boxes for _, boxes in parse_boxes(*ids))


def test_a_box_is_in_the_picture_that_the_answer_named() -> None:
    sizes = [(10, 10), (1000, 1000)]

    said = parse_boxes("In image 1: ", BOX, "[0,0,500,500]", BOX_END, sizes=sizes)

    assert [boxes for _, boxes in said if boxes] == [(Box(0.0, 0.0, 5.0, 5.0, 0),)]


def test_a_stop_string_inside_the_marks_ends_the_answer_before_the_box() -> None:
    said = parse_boxes(BOX, "[0,0,500,500]", BOX_END, stop=["500]"])

    assert "".join(text for text, _ in said) == "[0,0,500,"
    assert not any(boxes for _, boxes in said)
