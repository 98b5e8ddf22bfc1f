"""Every text in both languages: the same values in both, and Chinese punctuation in the Chinese."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import NamedTuple

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
                    if not name.startswith("__"):  # builtins may hold themselves, once another test was here
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
    # MEASURED_LANGUAGE shows a code in English and a name in Chinese; "{says}" is the English of another part.
    texts_of_ours = [(name, text) for name, text in texts() if text.en != "{says}"]
    different = [name for name, text in texts_of_ours if fields(text.en) != fields(text.zh)]
    assert different == ["policies.texts.MEASURED_LANGUAGE"]


def test_a_text_brings_both_languages_into_another() -> None:
    inner = Text("no {n}", "无 {n}").fill(n=1)
    assert Text("{why}: {how}", "{why}：{how}").fill(why=inner, how="x") == Text("no 1: x", "无 1：x")
    assert Text(", ", "、").join([inner, inner]).of("zh") == "无 1、无 1"
    assert (inner + Text.same("!")).of("en") == "no 1!"


class Use(NamedTuple):
    """Where a module's code says ``texts.NAME``, and with which values it is filled there; None: it is not."""

    where: str
    values: set[str] | None
    text: object


def uses() -> Iterator[Use]:
    root = Path(policies.__file__).parents[1]
    for path in sorted([*root.glob("policies/**/*.py"), *root.glob("router/**/*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        sources = [
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and any(name.name == "texts" for name in node.names)
        ]
        filled = {
            id(node.func.value): {keyword.arg or "**" for keyword in node.keywords}
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fill"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "texts":
                assert len(sources) == 1, path
                held = vars(importlib.import_module(f"{sources[0]}.texts"))
                yield Use(f"{path}:{node.lineno} {node.attr}", filled.get(id(node)), held[node.attr])


def test_every_text_is_filled_with_the_values_it_has_places_for() -> None:
    found = [use for use in uses() if isinstance(use.text, Text) and use.values is not None and "**" not in use.values]
    assert len(found) > 100
    wrong = [use.where for use in found if use.values != fields(use.text.en) | fields(use.text.zh)]
    assert wrong == []


def test_every_text_of_a_refusal_is_said_somewhere() -> None:
    said = {id(use.text) for use in uses()}
    assert [name for name, text in texts() if ".cli." not in name and id(text) not in said and "[" not in name] == []
