"""Wording that speaks of several pictures, and wording that only looks like it."""

import pytest

from policies.pictures import find_several_pictures


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
