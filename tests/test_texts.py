"""Every text in both languages: the same values in both, and Chinese punctuation in the Chinese."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from string import Formatter

import policies
import router
from policies.text import Text

# Code keeps its punctuation: in backticks, in quotes of a command line, and what looks like a call or a path.
_CODE = re.compile(r"`[^`]*`")
_HALF_WIDTH = re.compile(
    r"[\u4e00-\u9fff\uff08\uff09\u3001\u3002\uff0c\uff1a\uff1b][,;:?!()]|[,;:?!()][\u4e00-\u9fff]|[\u4e00-\u9fff]\.(?!\w)"
)


def texts() -> Iterator[tuple[str, Text]]:
    """All texts that modules named ``texts`` hold, by name."""
    for package in (policies, router):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "texts" in module.name.split("."):
                held = vars(importlib.import_module(module.name))
                for name, value in held.items():
                    yield from within(f"{module.name}.{name}", value)


def within(name: str, value: object) -> Iterator[tuple[str, Text]]:
    if isinstance(value, Text):
        yield name, value
    elif isinstance(value, dict):
        for key, held in value.items():
            yield from within(f"{name}[{key!r}]", held)


def fields(template: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(template) if field}


def faults(chinese: str) -> list[str]:
    """Half-width punctuation beside Chinese characters."""
    return _HALF_WIDTH.findall(_CODE.sub("x", chinese))


def test_there_are_texts() -> None:
    assert {name.rpartition(".")[0] for name, _ in texts()} >= {"policies.texts"}


def test_half_width_punctuation_is_seen() -> None:
    for wrong in ("无法写入:{path}", "{path}:请重试", "问题(英文)", "(现为无)", "好吗?", "完毕.", "一,二", "好;{x}"):
        assert faults(wrong), wrong
    for right in ('{x}：请用 `glowl ask "好?"`。', "共 3.5 GB，见 docs/settings.zh.md", "路径 /v1/jobs?limit=1"):
        assert not faults(right), right


def test_chinese_has_chinese_punctuation() -> None:
    assert {name: text.zh for name, text in texts() if faults(text.zh)} == {}


def test_both_languages_take_the_same_values() -> None:
    # MEASURED_LANGUAGE shows a code in English and a name in Chinese.
    different = [name for name, text in texts() if fields(text.en) != fields(text.zh)]
    assert different == ["policies.texts.MEASURED_LANGUAGE"]


def test_a_text_brings_both_languages_into_another() -> None:
    inner = Text("no {n}", "无 {n}").fill(n=1)
    assert Text("{why}: {how}", "{why}：{how}").fill(why=inner, how="x") == Text("no 1: x", "无 1：x")
    assert Text(", ", "、").join([inner, inner]).of("zh") == "无 1、无 1"
    assert (inner + Text.same("!")).of("en") == "no 1!"
