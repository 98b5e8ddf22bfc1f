"""The language of a question: tables by kind of text, history, robustness, and the same answer in every process."""

import os
import subprocess
import sys

import pytest

from policies.language import Detection, _dictionary, _is_in_dictionary, detect, identify, warm_up


@pytest.mark.parametrize(
    ("text", "language"),
    [
        # Chinese in either script, alone or with borrowed words, names, formulas and code.
        ("图里有几只猫？", "zh"),
        ("圖中有幾隻貓？", "zh"),
        ("猫", "zh"),
        ("ㄅㄆㄇ", "zh"),
        ("Michael Jackson的妻子是谁", "zh"),
        ("我们在训练模型时遇到了一个 Fault，导致训练中断。", "zh"),
        ("帮我 translate 这段 paragraph into English", "zh"),
        ("我今天 very happy", "zh"),
        ("请翻译: The quick brown fox jumps over the lazy dog and runs away from the big bad wolf", "zh"),
        ("解释 $E=mc^2$", "zh"),
        ("看 https://example.com/what-is-this-thing.png 这个", "zh"),
        ("运行 ```import os; print('the end of the file')``` 会怎样", "zh"),
        ("这个ありがとう是什么意思？", "zh"),
        ("这张图里的“안녕하세요”是什么意思？", "zh"),
        # English, with quotes from elsewhere, full-width letters, short forms.
        ("What colour is the circle?", "en"),
        ("What does 你好 mean?", "en"),
        ("How do you read “東京都庁” aloud?", "en"),
        ("What does ありがとう mean in English?", "en"),
        ("The 的 particle in Chinese", "en"),
        ("Ｗｈａｔ ｉｓ ｔｈｉｓ？", "en"),
        ("color", "en"),
        ("how much", "en"),
        ("Yes, the second one", "en"),
        ("I have $5 and $10 in cash", "en"),
        ("white van", "en"),
        # In the dictionary, not on the list of common words.
        ("graffiti", "en"),
        ("exterior lighting", "en"),
        ("Ancient obelisks pierce turquoise fjords", "en"),
        # Other languages, by script and by words.
        ("猫はどこにいますか？", "other"),
        ("ネコ", "other"),
        ("東京駅", "other"),
        ("iPhoneの写真", "other"),
        ("사진에 무엇이 있나요?", "other"),
        ("Что это такое?", "other"),
        ("ما هذا؟", "other"),
        ("यह क्या है?", "other"),
        ("Was ist das?", "other"),
        ("¿Qué hay en la imagen?", "other"),
        ("Quel est le prix de ce produit ?", "other"),
        ("Apa warna mobil ini?", "other"),
        ("Có bao nhiêu con mèo?", "other"),
        ("couleur", "other"),
        # Points and segments of a figure are no English words.
        ("在△ABC中，BE⊥AC，ON=3，求AM的长", "zh"),
        ("已知AB=AC，BE和CD相交于点IN，求证BE=CD", "zh"),
        ("已知△ABC中，AB=AC，点D在BC上，BE⊥AC于E，求证：∠CBE=½∠BAC", "zh"),
        ("如图，AM是角平分线，ON⊥AB，计算：∠AON", "zh"),
        ("若 x+y=5，xy=6，求：x²+y²", "zh"),
        ("如图，直线AT与圆O相切，AS=5，求DO", "zh"),
        ("WHAT DOES 你好 MEAN IN ENGLISH", "en"),
        # English names in other languages, and names from elsewhere in English.
        ("Qui a écrit Harry Potter and the Philosopher's Stone ?", "other"),
        ("Chi ha scritto The Lord of the Rings?", "other"),
        ("Wer spielt in The Big Bang Theory mit?", "other"),
        ("Kdo napsal Game of Thrones?", "other"),
        ("¿Dónde está el Golden Gate Bridge?", "other"),
        ("Who painted La Gioconda?", "en"),
        ("Tell me about Beijing", "en"),
        ("How Many Cats Are There", "en"),
        # What is asked, not what it is asked about.
        ("Translate this: 请问洗手间在哪里", "en"),
        ("请问洗手间在哪里？\n\nTranslate the sentence above.", "en"),
        ("总结一下：\nThe mayor said that the new bridge opens next year. It cost a lot.", "zh"),
        ("图里有几只猫？\n\nThe mayor said that the new bridge opens next year. It cost a lot.", "zh"),
        ("帮我看看这个error: cannot find module", "zh"),
        ("What is this? 谢谢", "en"),
        ("Please answer briefly. 这是什么？", "zh"),
        ("ok", "none"),
        ("lol", "none"),
        ("Thank you!", "en"),
        # Nothing to read.
        ("", "none"),
        (" \n\t", "none"),
        ("?", "none"),
        ("12 + 30 = ?", "none"),
        ("👍🏽🎉", "none"),
        ("A", "none"),
        ("NBA", "none"),
        ("https://example.com/what-is-this", "none"),
        ("report_final_v2.pdf", "none"),
        ("```\nfor row in rows: print(row)\n```", "none"),
        ("$\\frac{a}{b}$", "none"),
        ("\ud800", "none"),
    ],
)
def test_the_language_of_a_text(text, language):
    assert detect(text) == language


@pytest.mark.parametrize(
    ("text", "history", "expected"),
    [
        ("?", ("图里有几只猫？",), Detection("zh", "history")),
        ("OCR", ("How many cats are there?",), Detection("en", "history")),
        ("?", ("How many cats are there?", "图里有几只猫？"), Detection("zh", "history")),
        ("?", ("图里有几只猫？", "👍"), Detection("zh", "history")),
        ("?", ("👍", "42"), Detection("none", "none")),
        # What is typed in every language follows the conversation.
        ("ok", ("图里有几只猫？",), Detection("zh", "history")),
        ("OK, thanks", ("图里有几只猫？",), Detection("zh", "history")),
        ("lol", ("How many cats are there?",), Detection("en", "history")),
        ("omg wow", ("¿Qué hay en la imagen?",), Detection("other", "history")),
        ("tbh idk", ("图里有几只猫？", "ok"), Detection("zh", "history")),
        # A question that can be read is never overruled.
        ("How many cats are there?", ("图里有几只猫？",), Detection("en", "short")),
        ("图里有几只猫？", ("How many cats are there?",), Detection("zh", "script")),
    ],
)
def test_history_speaks_only_where_the_question_does_not(text, history, expected):
    assert identify(text, history) == expected


def test_a_word_that_could_be_either_language_follows_the_conversation():
    alone = identify("album")
    assert alone.source == "langdetect"

    assert identify("album", ("Que voyez-vous sur cette photo ?",)) == Detection("other", "history")
    assert identify("album", ("What do you see in this photo?",)) == Detection("en", "history")


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "猫",
        "?",
        "`",
        "```",
        "$",
        "$$",
        "<a",
        "\\a",
        '"',
        "“",
        "a@",
        "www.",
        "a.",
        "aB",
        "1_",
        "\ud800",
        "é",
        "の",
        " ",
        "'",
        "a'",
    ],
)
def test_any_text_however_long_is_read(unit):
    assert detect(unit * 1_000_000 if len(unit) == 1 else unit * 300_000) in ("zh", "en", "other", "none")


QUOTES = ["“{}”", '"{}"', "「{}」", "『{}』", "《{}》", "‘{}’"]


@pytest.mark.parametrize("quotes", QUOTES)
def test_what_is_quoted_is_talked_about_and_not_talked_in(quotes):
    assert detect(f"What does {quotes.format('我想去看看这个地方的风景')} say?") == "en"


@pytest.mark.parametrize("quotes", QUOTES)
@pytest.mark.parametrize(
    ("text", "language"),
    [("图里有什么？", "zh"), ("What colour is the owl?", "en"), ("Où est la chouette ce soir ?", "other")],
)
def test_a_question_that_stands_in_quotes_altogether_is_read(quotes, text, language):
    assert detect(quotes.format(text)) == language


def test_the_answer_is_the_same_in_every_process():
    texts = [
        "chat",
        "Was ist das?",
        "information",
        "Zidane",
        "kucing putih",
        "le chat noir",
        "What is this?",
        "Lecture notes n.d.",
        # Words of several languages: sampled without a seed, about every second answer is another.
        "eau carte rang brot hotel",
        "strada wit lait table",
        "hund hus putih zwart red",
        "chat eau wolke milch land",
        "chat putih kucing couleur table",
        "agua lait gelb wolke the",
        "putih livre hus red",
        "hus tabel calle livre hotel",
    ]
    code = f"from policies.language import identify\nprint([identify(text) for text in {texts!r}])"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }

    assert answers == {f"{[identify(text) for text in texts]}\n"}


def test_factory_are_not_read_until_a_text_needs_them():
    code = (
        "from policies.language import _factory, detect, warm_up\n"
        "detect('图里有几只猫？'); detect('What colour is the circle?'); detect('Что это?')\n"
        "print(_factory.cache_info().currsize)\n"
        "warm_up()\n"
        "print(_factory.cache_info().currsize)\n"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout

    assert printed.split() == ["0", "1"]


def test_warming_up_changes_no_answer():
    before = detect("le chat noir")

    warm_up()

    assert detect("le chat noir") == before == "other"


def test_the_dictionary_is_sorted_so_that_every_word_is_found():
    words = _dictionary().decode().split("\n")[:-1]

    assert words == sorted(words)
    assert all(_is_in_dictionary(word) for word in (words[0], words[-1], *words[::97]))
    assert not any(_is_in_dictionary(word) for word in ("", "aaa", "zzz", "kucing", "#"))
