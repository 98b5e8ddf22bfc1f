"""Quantities: one reading of numbers, amounts and dates, however they are written."""

from __future__ import annotations

import pytest

from router.answers.quantities import plain, read_date, read_quantity, same_currency, same_quantity, take_quantities


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("There are 3 cats", ["3"]),
        ("１２３", ["123"]),
        ("1,299 and 1299.50", ["1299", "1299.5"]),
        ("12,345,678.9", ["12345678.9"]),
        ("1,2和3", ["1", "2", "3"]),
        ("1.2万", ["12000"]),
        ("共一千二百三十四万元", ["12340000"]),
        ("三十二个", ["32"]),
        ("图中有两只猫", ["2"]),
        ("二〇二四年", ["2024"]),
        ("答案是四。", ["4"]),
        ("一百零五", ["105"]),
        ("三点五", ["3.5"]),
        ("三角形", []),
        ("它们一起走", []),
        ("百分之五十", ["50%"]),
        ("50 %", ["50%"]),
        ("¥12.50", ["12.5 ¥"]),
        ("1.5 kg", ["1500 g"]),
        ("20厘米", ["0.2 m"]),
        ("-5 and 3-5", ["-5", "3", "5"]),
        ("twenty-one cats and one dog", ["1", "21"]),
        ("two hundred and five", ["205"]),
        ("two and three", ["2", "3"]),
        ("3 million", ["3000000"]),
        ("3k", ["3000"]),
        ("B12", []),
        ("the owl is at [[120,140,420,480]]", []),
        ("两只猫：[[120,140,420,480], [5, 6, 70, 80]]", ["2"]),
        ("[120,140,420]", ["120", "140", "420"]),
        ("[1, 2] and 1,200", ["1", "1200", "2"]),
        ("the 1st of 3", ["1", "3"]),
        ("at 3:30", ["3:30"]),
        ("1. red\n2. blue", []),
        ("2024年3月5日", ["2024-03-05"]),
        ("5 March 2024", ["2024-03-05"]),
        ("03/05/2024", ["2024", "3", "5"]),
    ],
)
def test_what_a_text_counts(text: str, shown: list[str]) -> None:
    assert sorted(each.shown for each in take_quantities(text)[0]) == shown


@pytest.mark.parametrize(
    ("text", "is_article"), [("一只猫", True), ("one cat", True), ("两只猫", False), ("1 cat", False)]
)
def test_a_one_in_words_may_be_an_article(text: str, is_article: bool) -> None:
    assert [each.is_article for each in take_quantities(text)[0]] == [is_article]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("¥1,299.00", "1299 ¥"),
        ("RMB 12", "12 CNY"),
        ("12元", "12 CNY"),
        ("人民币12元", "12 CNY"),
        ("12.50 USD", "12.5 USD"),
        ("-$5", "-5 $"),
        ("$-5", "-5 $"),
        ("1.299,50", "1299.5"),
        ("1 299", "1299"),
        ("1,29", "1.29"),
        ("0.5公斤", "500 g"),
        ("三十", "30"),
        ("百分之五", "5%"),
        ("５", "5"),
        ("1,2345", None),
        ("007", None),
        ("3 cats", None),
        ("abc", None),
        ("", None),
    ],
)
def test_a_text_that_is_a_quantity_and_nothing_else(text: str, shown: str | None) -> None:
    found = read_quantity(text)

    assert (found.shown if found else None) == shown


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2024-03-05", "2024-03-05"),
        ("2024/3/5", "2024-03-05"),
        ("2024年3月5日", "2024-03-05"),
        ("５ March 2024", "2024-03-05"),
        ("Mar. 5, 2024", "2024-03-05"),
        ("March 5th 2024", "2024-03-05"),
        ("25/12/2024", "2024-12-25"),
        ("12/25/2024", "2024-12-25"),
        ("5/5/2024", "2024-05-05"),
        ("03/05/2024", None),
        ("2024-13-01", None),
        ("2024", None),
    ],
)
def test_a_date_is_read_where_day_and_month_cannot_be_swapped(text: str, iso: str | None) -> None:
    assert read_date(text) == iso


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("1.5 kg", "1500g", True),
        ("1.5 kg", "1.5", True),
        ("1.5 kg", "1500", False),
        ("1 km", "1000米", True),
        ("500 ml", "0.5 L", True),
        ("10mm", "1cm", True),
        ("5 kg", "5 m", False),
        ("¥5", "5 CNY", True),
        ("¥5", "5 USD", False),
        ("$5", "5 USD", True),
        ("5%", "5", True),
    ],
)
def test_quantities_are_equal_in_base_units_and_where_only_one_names_its_unit(
    first: str, second: str, is_same: bool
) -> None:
    one, other = read_quantity(first), read_quantity(second)

    assert one is not None
    assert other is not None
    assert same_quantity(one, other) is same_quantity(other, one) is is_same


def test_what_is_left_of_a_text_has_no_numbers_measure_words_or_units() -> None:
    assert take_quantities("有 3 只猫, 两条狗, 1.5 kg and two birds")[1].split() == ["有", "猫,", "狗,", "and", "birds"]


def test_currencies_are_the_same_by_code_sign_and_word() -> None:
    assert same_currency("CNY", "¥")
    assert same_currency("人民币", "RMB")
    assert not same_currency("CNY", "USD")
    assert not same_currency("apple", "apple")


def test_plain_texts_have_no_case_width_or_outer_punctuation() -> None:
    assert plain("  “ＡＢＣ  def.” ") == "abc def"
    assert plain("星 巴 克。") == "星巴克"
