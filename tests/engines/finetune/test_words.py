"""What is wrong with a run or a data set is said in English and in Chinese, with the same values."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from engines.dataset_format import DatasetError
from engines.finetune.__main__ import main

ROOT = Path(__file__).parents[3]
CHINESE = re.compile("[\u4e00-\u9fff]{2,}")
SAID = [
    (path.relative_to(ROOT).as_posix(), call)
    for folder in ("engines", "router/loop", "router/cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
    for call in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("FinetuneError", "DatasetError")
]


def values_of(text: ast.expr) -> set[str]:
    """The names in an f-string; how they are put together may differ."""
    names = (node for node in ast.walk(text) if isinstance(node, ast.Name | ast.Attribute))
    return {ast.unparse(node) for node in names} - {"' and '.join", "', '.join"}


@pytest.mark.parametrize(("path", "call"), SAID, ids=[f"{path}:{call.lineno}" for path, call in SAID])
def test_each_error_has_the_same_values_in_both_languages(path: str, call: ast.Call) -> None:
    english, chinese = call.args
    if ast.unparse(english).startswith("str("):  # another error's words, in both
        assert ast.unparse(chinese).endswith(".message_zh")
        return
    assert values_of(english) == values_of(chinese)
    assert CHINESE.search(ast.unparse(chinese))
    assert not CHINESE.search(ast.unparse(english))


def test_all_of_them_were_read() -> None:
    assert len(SAID) > 30


def test_a_place_is_said_in_both_whatever_the_error_is() -> None:
    ours = DatasetError.at("line 3", "第 3 行", DatasetError("no picture", "没有图片"))
    others = DatasetError.at("line 3", "第 3 行", ValueError("Expecting value"))

    assert (str(ours), ours.message_zh) == ("line 3: no picture", "第 3 行：没有图片")
    assert (str(others), others.message_zh) == ("line 3: Expecting value", "第 3 行：Expecting value")


@pytest.mark.parametrize(("language", "said"), [("en", "error: there is no setting"), ("zh", "错误：没有设置 'rnak'")])
def test_the_process_speaks_the_language_that_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str, said: str
) -> None:
    config = tmp_path / "run.toml"
    config.write_text("rnak = 8")

    argv = ["glm", "--data", str(tmp_path), "--preset", "cpu", "--config", str(config), "--lang", language]
    assert main(argv) == 1

    assert capsys.readouterr().err.startswith(said)
