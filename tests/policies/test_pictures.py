"""Wording that speaks of several pictures, and wording that only looks like it."""

import pytest

from policies.pictures import find_references_back, find_several_pictures


@pytest.mark.parametrize(
    "text",
    [
        "What differs between the two pictures?",
        "Are both images the same?",
        "What is in the left image?",
        "The left and right images each show a dog",
        "In the second photo, who is smiling?",
        "One of the photos has no people",
        "Compare these screenshots",
        "Is there a cat in each picture?",
        "Describe image 2",
        "What changed from the previous picture?",
        "Which picture pair matches: the pair of photos above",
        "这两张图有什么不同？",
        "这两張照片一樣嗎？",
        "左图里有几只狗？",
        "右侧图像中的狗在做什么",
        "每张图片里都有猫吗",
        "第二张里的人是谁",
        "另一张图里有什么",
        "图2里的颜色",
        "这些照片是在哪里拍的",
        "其中一张照片有海",
        "上一张图里的价格是多少",
        "比较几张截图",
        "一张是白天拍的，另一张是晚上吗",
        "组合图像里有几只狗",
        "任何一张图片中有人吗",
    ],
)
def test_wording_of_several_pictures_is_found(text):
    assert find_several_pictures(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is in this picture?",
        "What kind of vehicle is pictured?",
        "Is there a picture on the left wall?",
        "How many people are in the image?",
        "Is the dog on the left side of the image?",
        "Two men and a dog on the street",
        "What is in the photo?",
        "图里有几只猫？",
        "这张图片里有什么？",
        "请描述一下这张图",
        "图片的左边是什么？",
        "桌上有两张纸",
        "旁边的两张椅子是什么颜色",
        "这张图表的标题是什么",
        "两个人在做什么",
        "左边的画框是什么颜色",
        "孩子从一张床跳到另一张床",
        "一共有五只狼",
        "图片里共有几个图形？",
        "两个图案有什么不同",
        "左边的图标是什么颜色",
        # One picture that shows several.
        "这张照片里有两张照片，分别拍的是什么？",
        "墙上的两张照片是谁的",
        "这张图里有两幅画，哪一幅更大？",
        "画面里显示了三张图片",
        "The photo shows two paintings. Which is older?",
        "Are there two pictures on the wall?",
        "What is on the three photos hanging on the wall?",
        "The wall has several pictures in the room",
    ],
)
def test_wording_of_one_picture_is_left_alone(text):
    assert find_several_pictures(text) == ()


def test_the_words_are_reported_once_each_and_at_most_three():
    found = find_several_pictures("Both images, BOTH IMAGES, the left image, the right image and the second photo")

    assert found == ("both images", "the left image"[4:], "right image")


@pytest.mark.parametrize("unit", ["a", "图", "two ", "image ", "both of the ", "一张", "\ud800"])
def test_any_text_however_long_is_read(unit):
    assert isinstance(find_several_pictures(unit * 250_000), tuple)


@pytest.mark.parametrize(
    "text",
    [
        "和上一张比有什么变化？",
        "刚才那张图里的人也在吗",
        "这张比刚才的亮吗",
        "第一张里的狗是什么颜色",
        "哪一个更大？",
        "两者有什么区别",
        "是同一个人吗，和之前的一样吗",
        "Is it the same as before?",
        "What changed?",
        "Which one is brighter?",
        "And in the first picture?",
        "Compare them.",
        "Are both open?",
    ],
)
def test_wording_that_refers_back_or_compares_is_found(text):
    assert find_references_back(text)


@pytest.mark.parametrize(
    "text",
    [
        "谢谢",
        "图里有几只猫？",
        "这是什么颜色的？",
        "他在做什么",
        "再说一遍",
        "What is this?",
        "How many cats?",
        "Thanks!",
        "",
    ],
)
def test_wording_of_its_own_turn_refers_to_nothing_else(text):
    assert find_references_back(text) == ()
