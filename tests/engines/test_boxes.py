from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import Box, InvalidImageError
from engines.boxes import BOX_END, BOX_START, BoxReader, MarkedText, find_coordinates, mentioned_picture

SIZES = [(200, 100), (1000, 1000), (50, 400)]


def reader(*sizes: tuple[int, int]) -> BoxReader:
    return BoxReader(lambda: sizes)


@pytest.mark.parametrize(
    "text",
    [
        "[[100,200,300,400]]",
        "[100, 200, 300, 400]",
        "[[[100,200,300,400]]]",
        "(100,200,300,400)",
        "<100,200,300,400>",
        "{100, 200, 300, 400}",
        " [\n[ 100 , 200.0 ,300,\t400 ] ]\n",
        "[100 200 300 400]",
        "[[100，200，300，400]]",
        "【100、200、300、400】",
        "［［１００，２００，３００，４００］］",
        '[{"bbox_2d": [100, 200, 300, 400], "label": "owl"}]',
        "owl [100,200,300,400]",
    ],
)
def test_every_way_of_writing_a_box_is_understood(text: str) -> None:
    assert find_coordinates(text) == [(0.1, 0.2, 0.3, 0.4)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "a circle",
        "100,200,300,400",
        "[100,200,300]",
        "[100,200,300,400,500]",
        "[[1,2],[3,4]]",
        "[100,200,300,four]",
        "[100,200,300,400)",
        "[100,200,300,400",
        "[300,200,100,400]",
        "[100,400,300,200]",
        "[100,200,100,400]",
        "[1200,200,1300,400]",
        "[1/2,2,3,4]",
        "[100,,300,400]",
        "[1e3,200,300,400]",
        "[100-200-300-400]",
    ],
)
def test_what_is_no_box_is_none(text: str) -> None:
    assert find_coordinates(text) == []


def test_several_boxes_keep_their_order_and_a_wrong_one_among_them_is_left_out() -> None:
    assert find_coordinates("[[0,0,500,500],[9,9,9,9],[0.5,1,1000,999.5]]") == [
        (0.0, 0.0, 0.5, 0.5),
        (0.0005, 0.001, 1.0, 0.9995),
    ]


def test_what_lies_outside_of_the_picture_is_cut_off() -> None:
    assert find_coordinates("[-20, 0, 1003, 500]") == [(0.0, 0.0, 1.0, 0.5)]


def test_boxes_are_in_pixels_of_the_picture() -> None:
    assert reader((640, 480)).read("[[250,500,1000,1000]]") == (Box(160.0, 240.0, 640.0, 480.0, 0),)


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ("", 2),
        ("In image 1 there is an owl: ", 0),
        ("Picture 2, unlike picture 1, shows an owl. In picture 2: ", 1),
        ("The first picture shows ", 0),
        ("in the 2nd image", 1),
        ("图1中的猫头鹰：", 0),
        ("第二张图里", 1),
        ("第2幅图", 1),
        ("图片三", 2),
        ("picture 9", 2),
        ("picture 1 and picture 9", 0),
        ("two images of 1 owl", 2),
        ("两张图片，第二个圆", 2),
    ],
)
def test_a_box_is_in_the_picture_that_was_named_last_or_else_in_the_last_picture(said: str, index: int) -> None:
    assert mentioned_picture(said, 3) == index

    boxes = reader(*SIZES)
    boxes.say(said)
    width, height = SIZES[index]
    assert boxes.read("[0,0,1000,500]") == (Box(0.0, 0.0, width, height / 2, index),)


def test_without_a_picture_there_is_no_box() -> None:
    assert reader().read("[1,2,3,4]") == ()


def test_a_picture_whose_size_cannot_be_read_has_no_box() -> None:
    def fail() -> list[tuple[int, int]]:
        raise InvalidImageError("no")

    assert BoxReader(fail).read("[1,2,3,4]") == ()


def test_sizes_are_read_only_when_a_box_needs_them() -> None:
    calls: list[int] = []
    boxes = BoxReader(lambda: [(calls.append(1) or 10, 10)])

    boxes.read("42")
    assert not calls
    boxes.read("[1,2,3,4]")
    boxes.read("[1,2,3,4]")
    assert len(calls) == 1


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text(max_size=60))
def test_any_text_gives_boxes_inside_the_picture_or_none(text: str) -> None:
    for box in reader((30, 20)).read(text):
        assert 0 <= box.left < box.right <= 30
        assert 0 <= box.top < box.bottom <= 20


ANSWER = f"Image 1 has {BOX_START}[[0,0,500,1000]]{BOX_END}, a < b, and the count is {BOX_START}3{BOX_END}. <|end"
SHOWN = "Image 1 has [[0,0,500,1000]], a < b, and the count is 3. <|end"


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_marks_in_a_text_are_taken_out_and_read_however_the_text_is_cut(cuts: list[int]) -> None:
    marks = MarkedText(reader(*SIZES))
    places = [0, *sorted(cuts), len(ANSWER)]
    shown, boxes = "", []
    for start, stop in pairwise(places):
        piece, found = marks.push(ANSWER[start:stop])
        shown += piece
        boxes += found

    assert shown + marks.finish() == SHOWN
    assert boxes == [Box(0.0, 0.0, 100.0, 100.0, 0)]


def test_text_that_is_no_beginning_of_a_mark_is_not_held_back() -> None:
    assert MarkedText(reader()).push("a < b <| c")[0] == "a < b <| c"
    assert MarkedText(reader()).push("a <|begin")[0] == "a "


def test_an_end_without_a_start_and_a_start_without_an_end_are_no_box() -> None:
    marks = MarkedText(reader((10, 10)))

    assert marks.push(f"[1,2,3,4]{BOX_END} {BOX_START}[1,2,3,4]") == ("[1,2,3,4] [1,2,3,4]", ())
    assert marks.finish() == ""


def test_without_a_reader_marks_are_only_taken_out() -> None:
    assert MarkedText().push(f"{BOX_START}[1,2,3,4]{BOX_END}") == ("[1,2,3,4]", ())
