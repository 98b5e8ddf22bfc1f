from __future__ import annotations

import pytest

from router.loop.redact import redact, redact_all


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("写信给li.wei+a@mail.example.cn。", "写信给[email]。"),
        ("电话13812345678，谢谢", "电话[phone]，谢谢"),
        ("+86 138 1234 5678 or +1 (415) 555-2671", "[phone] or [phone]"),
        ("身份证11010519491231002X有效", "身份证[id]有效"),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        ("6222021234567890128 是卡号", "[card] 是卡号"),
    ],
)
def test_what_names_a_person_is_replaced(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "合计 1234.50 元",
        "order 110105194912310021",  # a resident's number but for its check digit, and no card
        "4111 1111 1111 1112",
        "0000000000000000",
        "订单 20261129123456",
        "pi is 3.14159265358979",
        "12345678901",
        "x@y",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("piece", ["a", "1", "1 ", "a@", "b-", "13912345678.", "+1 "])
def test_a_text_of_a_megabyte_is_read_in_the_time_of_its_length(piece: str) -> None:
    # In the square of its length it would take an hour, and hold all threads of the process.
    text = piece * (1_000_000 // len(piece))
    assert redact(text) == text


def test_only_what_is_wanted_is_replaced() -> None:
    assert redact("a@b.cn 13812345678", {"phone"}) == "a@b.cn [phone]"
    assert redact_all({"e@mail.cn": ["a@b.cn", 1, None]}) == {"e@mail.cn": ["[email]", 1, None]}
