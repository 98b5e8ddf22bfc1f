"""The multi-hop score: plain questions stay simple, chained ones don't, cues are named, more cues never lower it."""

from pathlib import Path

import pytest

from policies.complexity import Scored, examine, find_cues, score, to_chinese
from policies.rules import load_preset
from policies.table import load_table, run_table

SIMPLE = [
    ("What colour is the circle?", "en"),
    ("What is in this picture?", "en"),
    ("How many cats are there?", "en"),
    ("How many red circles are there?", "en"),
    ("Is the man wearing a hat?", "en"),
    ("Where is the dog?", "en"),
    ("Describe this image.", "en"),
    ("Read the text in the image.", "en"),
    ("图里有几只猫？", "zh"),
    ("这是什么？", "zh"),
    ("请描述这张图片", "zh"),
    ("请问这张图片里有什么？", "zh"),
    ("圆是什么颜色的？", "zh"),
    ("图中的价格是多少？", "zh"),
    ("猫在椅子下面吗？", "zh"),
    ("请识别图中的文字", "zh"),
]
MULTI_HOP = [
    ("Which of the two people left of the car is taller than the man holding the dog?", "en"),
    ("What is the capital of the country where the tallest building in the photo stands?", "en"),
    ("What colour is the shape that is to the right of the largest red square?", "en"),
    ("How many more apples than oranges are there, and what do they cost in total?", "en"),
    ("First count the chairs, then explain why there are fewer tables than chairs.", "en"),
    ("左边穿红衣服的男人手里拿的东西和右边女人拿的东西哪个更大？", "zh"),
    ("图里最贵的商品比最便宜的商品贵多少元？", "zh"),
    ("先数一数苹果，然后再算出总共要多少钱", "zh"),
    ("最大的红色正方形右边的那个形状的颜色是什么？", "zh"),
    ("根据图表，哪一年的销售额增长最快，原因可能是什么？", "zh"),
]


def _threshold() -> float:
    rule = next(rule for rule in load_preset("seed").rules if rule.name == "multi-hop")
    assert rule.when["multi_hop"].at_least is not None
    return rule.when["multi_hop"].at_least


@pytest.mark.parametrize(("text", "language"), SIMPLE)
def test_a_plain_question_stays_under_the_threshold(text, language):
    assert score(text, language) < _threshold()


@pytest.mark.parametrize(("text", "language"), MULTI_HOP)
def test_a_chained_question_passes_the_threshold_and_says_why(text, language):
    complexity = examine(text, language)

    assert complexity.score >= _threshold()
    assert complexity.cues


@pytest.mark.parametrize(
    ("text", "language", "cue"),
    [
        ("the name of the son of the king", "en", "reference chain"),
        ("the cup left of the lamp", "en", "relation"),
        ("the dog that is asleep", "en", "relative clause"),
        ("a man holding it", "en", "participle"),
        ("is it bigger than that", "en", "comparison"),
        ("is it red or blue", "en", "conjunction"),
        ("what happens after that", "en", "sequence"),
        ("the total price", "en", "quantity"),
        ("why is it so", "en", "reasoning"),
        ("What is it? Who made it?", "en", "further question"),
        ("他的妈妈的名字", "zh", "reference chain"),
        ("这本书的作者出生在哪里", "zh", "bridge"),
        ("左边的人", "zh", "relation"),
        ("戴帽子的人", "zh", "relative clause"),
        ("哪个更大", "zh", "comparison"),
        ("猫和狗", "zh", "conjunction"),
        ("然后做什么", "zh", "sequence"),
        ("总共几个", "zh", "quantity"),
        ("为什么", "zh", "reasoning"),
        ("是什么？谁做的？", "zh", "further question"),
    ],
)
def test_each_cue_is_found_and_named(text, language, cue):
    assert any(found.startswith(cue) for found in examine(text, language).cues)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the thing on the ceiling in the morning", "en"),
        ("What colour is the building", "en"),
        ("这是什么颜色的", "zh"),
        ("这本书的作者是谁", "zh"),
        ("图里的人数是多少", "zh"),
        ("杯子在左边还是右边", "zh"),
    ],
)
def test_what_only_looks_like_a_cue_is_none(text, language):
    assert not [cue for cue in examine(text, language).cues if not cue.startswith("reference chain")]


@pytest.mark.parametrize(
    ("language", "additions"),
    [
        ("en", (" and why", " than before", " that is red", " in total", " left of the car", "? What then?")),
        ("zh", ("，为什么", "，比之前更大", "，总共多少", "和旁边的人", "，然后呢？", "，第二个是什么？")),
    ],
)
def test_a_further_cue_never_lowers_the_score(language, additions):
    for text, text_language in SIMPLE + MULTI_HOP:
        if text_language != language:
            continue
        for addition in additions:
            longer = text.rstrip("?？.") + addition
            assert score(longer, language) >= score(text.rstrip("?？."), language)


@pytest.mark.parametrize("language", ["other", "none"])
def test_what_has_no_cue_list_scores_zero(language):
    assert examine("¿Cuántas manzanas más que naranjas hay, y por qué?", language) == examine("", language)
    assert score("", language) == 0.0


def test_courtesy_makes_no_question_harder():
    assert score("请问你能不能帮我看一下这是什么呀", "zh") < _threshold()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "unit", ["a", "猫", "?", "; ", "的", "of ", "'s ", "a's ", "？", "；", "what of ", ". aa", "1_", "\ud800", "之"]
)
def test_any_text_however_long_is_scored_between_0_and_1(unit, language):
    assert 0.0 <= score(unit * 250_000, language) <= 1.0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_cue_has_a_name_in_chinese(language: Scored) -> None:
    _, found = find_cues("x", language)

    for name in found:
        label = name.replace("_", " ")
        for cue in (f"{label}: of, by", f"{label} x2"):
            shown = to_chinese(cue)
            assert not shown[0].isascii()
            assert shown.endswith(cue.removeprefix(label))
            assert label not in shown


@pytest.mark.parametrize(
    ("table", "route", "least"),
    [
        ("one_step", "fast", 0.9),
        ("multi_step", "deep", 0.7),
        ("readings", "fast", 0.95),
        ("calculations", "deep", 0.95),
    ],
)
def test_everyday_requests_in_chinese_go_where_their_steps_send_them(table, route, least):
    table = load_table(Path(__file__).parent / f"everyday_{table}.yaml")
    outcomes = run_table(table, load_preset("seed"))
    right = [outcome for outcome in outcomes if outcome.decision.route == route]

    assert len(outcomes) >= 59
    assert {case.route for case in table.cases} == {route}
    assert len(right) / len(outcomes) >= least


@pytest.mark.parametrize(
    "text",
    [
        "我昨天下午放学回家路过小区花园看见一只胖橘猫趴着晒太阳打呼噜睡得很香没有人打扰它",
        "请" + "，".join(["我今天去了超市", "天气很好", "路上人很少", "我买了牛奶", "这是什么牌子"] * 3),
        "帮我提取" + "、".join(["姓名", "性别", "民族", "住址", "电话", "单位", "职务", "邮箱"]),
        "图中的苹果、香蕉、橘子、葡萄、西瓜是什么颜色",
    ],
)
def test_neither_length_nor_commas_nor_a_list_alone_is_a_chain(text):
    assert score(text, "zh") < _threshold()


@pytest.mark.parametrize(
    "text",
    [
        "最近的照片在哪里",
        "不超过十个字",
        "公司的名字是什么",
        "老师写的是什么",
        "图上写的字是什么",
        "答案写在哪里",
        "今天的最后一页",
        "发票上的日期是哪天",
        "每小时多少公里",
        "姓名和电话分别是什么",
    ],
)
def test_everyday_words_are_cues_only_in_their_context(text):
    assert score(text, "zh") < _threshold()


@pytest.mark.parametrize(
    ("plain", "harder"),
    [
        ("这个公式 $a^2+b^2=c^2$ 叫什么", "证明这个公式 $a^2+b^2=c^2$"),
        ("x+y=10是什么", "x+y=10，求x"),
        ("图里的三角形ABC是什么颜色", "求图里的三角形ABC的面积"),
        ("3+5写成英文", "计算3+5"),
    ],
)
def test_working_something_out_beside_a_formula_raises_the_score(plain, harder):
    assert examine(harder, "zh").score > examine(plain, "zh").score
    assert any(cue.startswith("problem") for cue in examine(harder, "zh").cues)
    assert not any(cue.startswith("problem") for cue in examine(plain, "zh").cues)


@pytest.mark.parametrize(
    "text",
    ["满100减20怎么算", "买二送一咋算", "打七折怎么算", "四个人AA怎么算", "证明：△ABC≌△DEF", "几点能到，会不会迟到"],
)
def test_a_few_words_that_ask_for_several_steps_are_several(text):
    assert score(text, "zh") >= 0.5


@pytest.mark.parametrize("text", ["满减活动是什么意思", "这张发票怎么开", "这个字怎么读", "证明信上写了什么"])
def test_a_few_words_that_look_like_it_are_one_step(text):
    assert score(text, "zh") < 0.5
