"""The request is told from what it brings, from courtesy, from wishes about form and from what client libraries add."""

import json
from pathlib import Path

import pytest
import yaml

from policies.decide import decide
from policies.features import Question, measure
from policies.request import find_answer_language, find_request
from policies.rules import Rules

HERE = Path(__file__).parent
DEV = HERE.parents[2] / "shared" / "eval" / "policy" / "hops_dev.jsonl"
WRAPPERS = [
    wrapper
    for kind in yaml.safe_load((HERE / "wrappers.yaml").read_text(encoding="utf-8")).values()
    for wrapper in kind
]
OWN = [
    "图里有几只猫？",
    "左边的杯子是什么颜色的？",
    "图里展示了",
    "左边穿红衣服的男人手里拿的东西和右边女人拿的东西哪个更大？",
    "请计算图中所有商品的总价，并解释原因。",
    "What colour is the circle?",
    "Which of the two people left of the car is taller than the man holding the dog?",
]


def _wrap(wrapper: str, question: str) -> str:
    """Put a question where {} is; where the words go on after a comma, without its own end."""
    before, after = wrapper.split("{}")
    return f"{before}{question.rstrip('？?。. ') if after[:1] in ('，', '（') else question}{after}"


def _route(text: str, seed: Rules, num_images: int = 1) -> str:
    return decide(measure(Question(text, image_keys=("picture",) * num_images)), seed).route


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_put_around_a_question_leaves_its_words_and_its_route(wrapper, seed):
    for question in OWN:
        wrapped = _wrap(wrapper, question)

        assert _route(wrapped, seed) == _route(question, seed), wrapped
        assert find_request(wrapped).text.strip("?。.") == find_request(question).text.strip("?。."), wrapped


@pytest.mark.skipif(not DEV.is_file(), reason="the evaluation data is not beside the repository")
def test_no_wrapper_flips_more_than_one_real_question_in_twenty(seed):
    with DEV.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["label_hops"] != "borderline"][::29]
    routes = [_route(row["text"], seed, min(1, row["n_images"])) for row in rows]
    assert {"fast", "deep"} == set(routes)

    flipped = {
        wrapper: sum(
            _route(_wrap(wrapper, row["text"]), seed, min(1, row["n_images"])) != route
            for row, route in zip(rows, routes, strict=True)
        )
        / len(rows)
        for wrapper in WRAPPERS
    }

    assert {wrapper: share for wrapper, share in flipped.items() if share > 0.05} == {}


@pytest.mark.parametrize(
    "text",
    [
        "#翻译# 图里的字",
        "祝福语怎么写好",
        "图里有什么?\n来自华为手机的是哪一张",
        "我是什么老师",
        "计算2*3*4的值",
        "「猫」和「狗」哪个多",
        "那么多人在做什么",
    ],
)
def test_words_that_only_look_like_a_wrapper_stay(text):
    assert find_request(text).text == text


@pytest.mark.parametrize(
    ("text", "request_text"),
    [
        # Who asks is told from what is asked about, in both directions and either order.
        ("Translate this: 请问洗手间在哪里", "Translate this:"),
        ("翻译成中文：How much is this, and where can I buy it?", "翻译成中文:"),
        ("请问洗手间在哪里？\n\nTranslate the sentence above.", "Translate the sentence above."),
        (
            "Summarize the following article.\n\n昨天下午，市长在会上宣布新桥将于明年通车。",
            "Summarize the following article.",
        ),
        (
            "总结一下下面的文字。\nThe mayor said that the new bridge opens next year. It cost a lot.",
            "总结一下下面的文字。",
        ),
        ("翻译下面的对话：\nA：你去哪里？\nB：我去超市买东西。", "翻译下面的对话:"),
        ("这段代码有什么问题？\nfor (int i = 0; i < n; i++) {\n  sum += a[i];\n}", "这段代码有什么问题?"),
        ("What is wrong here?\nselect name from users where age > 3;", "What is wrong here?"),
        ("为什么报错\nTraceback (most recent call last):\n  File \"a.py\", line 1\nKeyError: 'x'", "为什么报错"),
        ("哪个月最多\n月份\t销量\n一月\t120\n二月\t98", "哪个月最多"),
        ("> 我们下周三开会\n这句话什么意思", "这句话什么意思"),
        # Steps that follow a pasted text are part of the request.
        ("总结下面的文字：\n市长说新桥明年通车。\n然后翻译成英文。", "总结下面的文字:\n然后翻译成英文。"),
        ("根据下面的英文回答：It was a sunny day. We were glad.\n图里有几只猫？", "图里有几只猫?"),
        ("图里有几只猫？\n姓名 年龄 城市\n张三 28 北京\n李四 31 上海", "图里有几只猫?"),
        ("图里有几只猫？\n公司决定了新的考勤制度。员工每天九点打卡，迟到三次扣一天工资。", "图里有几只猫?"),
        ("What is this?\n\n这段话是网上抄来的，作者是谁已经不知道了。", "What is this?"),
        # What the question is about stays with it.
        ("我有500元。图里的东西我买得起哪些？", "我有500元。\n图里的东西我买得起哪些?"),
        # Two questions are two.
        ("这是什么？多少钱？", "这是什么?\n多少钱?"),
    ],
)
def test_the_request_is_told_from_what_it_brings(text, request_text):
    assert find_request(text).text == request_text


@pytest.mark.parametrize(
    "text",
    [
        "谢谢",
        "好的，谢谢老师！",
        "辛苦了🙏",
        "Thanks a lot!",
        "ok",
        "收到",
        "哈哈哈",
        "Thank you for your help.",
        "不客气",
        "OK, thanks",
        "Great, thank you!",
        "ok thanks a lot, bye",
        "thank you!",
        "ok bye",
        "Thanks so much, that was very helpful",
        "That's all for now, thanks. Have a nice day!",
        "great answer",
        "谢谢啦，拜拜",
        "多謝",
        "没有其他问题了，谢谢",
        "Gracias",
        "muchas gracias, adiós",
        "Merci beaucoup !",
        "Danke schön, tschüss",
        "dank je wel",
        "Grazie mille",
        "obrigado",
        "Спасибо большое!",
        "ありがとうございます",
        "감사합니다",
        "cảm ơn",
        "شكرا",
        "gracias 🙏",
    ],
)
def test_a_turn_of_nothing_but_courtesy_is_known_as_one(text):
    found = find_request(text)

    assert found.is_courtesy
    assert found.text == ""
    assert found.spoken


@pytest.mark.parametrize("text", ["👍", "👍🏽👍", "❤️", "🙏 😊", ":)", "<3", "👩‍🎤👍"])
def test_a_turn_of_nothing_but_an_emoji_that_agrees_is_courtesy(text):
    assert find_request(text).is_courtesy is (text != "👩‍🎤👍")


@pytest.mark.parametrize(
    "text",
    [
        "谢谢老师的那个人是谁？",
        "好人是谁",
        "急救箱在哪里",
        "老师写的是什么",
        "Thanks to whom was it built?",
        "",
        "请用中文回答",
        "?",
        "👍?",
        "🤔",
        "Gracias, ¿cuántos hay?",
        "Danke, wie viele?",
        "merci de compter les chats",
        "What does merci mean?",
        "translate gracias",
        "thank you card price",
        "thanks, now compare both",
        "ciao bella restaurant menu",
        "ok bye means what",
        "right side",
    ],
)
def test_a_turn_that_asks_is_no_courtesy(text):
    assert not find_request(text).is_courtesy


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is this? Answer in Chinese.", "zh"),
        ("What is this? 请用中文回答", "zh"),
        ("Explain it in simplified Chinese, please", "zh"),
        ("这是什么？请用英文回答", "en"),
        ("Translate the sign into English", "en"),
        ("How many Chinese restaurants are there?", None),
        ("Is this in Chinese culture a lucky number?", None),
        ("这是什么？", None),
    ],
)
def test_the_language_to_answer_in_is_found(text, language):
    assert find_request(text).answer_language == language
    assert find_answer_language(text) == language


@pytest.mark.parametrize(
    "unit",
    ["a", "你好，", "请", "```", '{"a":', "<a>", "$", "“", "谢谢", "\n", "\n|", "a,b,c\n", "1 ", "(", "Dear A,\n"],
)
def test_any_text_however_long_is_read(unit):
    assert isinstance(find_request(unit * 100_000).text, str)
