"""The two READMEs say the same, and what they say can be typed: commands, variables, routes, files."""

from __future__ import annotations

import ast
import builtins
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from router.cli.main import app as cli
from router.cli.models import FULL_MODELS, MODEL_CHOICES
from router.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
EN = (ROOT / "README.md").read_text(encoding="utf-8")
ZH = (ROOT / "README.zh.md").read_text(encoding="utf-8")
BOTH = pytest.mark.parametrize("text", [EN, ZH], ids=["en", "zh"])

Row = list[str]


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, comments taken off."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(language, re.sub(r"\s+# .*$", "", code, flags=re.MULTILINE)) for language, code in blocks]


def rows(text: str) -> list[Row]:
    """The cells of every table row."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|--")
    ]


def setting_rows(text: str) -> list[Row]:
    return [row for row in rows(text) if re.match(r"`(GLOWL_\w+|REDIS_URL)`$", row[0])]


def settings() -> list[tuple[str, str | None, str]]:
    """Variable, default and meaning of every setting; a default of None depends on the machine."""
    found: list[tuple[str, str | None, str]] = []
    for name, field in Settings.model_fields.items():
        value = field.get_default(call_default_factory=True)
        shown = None if field.default_factory else str(value).lower() if isinstance(value, bool) else str(value or "")
        found.append((str(field.validation_alias or f"GLOWL_{name.upper()}"), shown, field.description or ""))
    return found


def test_both_have_the_same_structure() -> None:
    def structure(text: str) -> list[str]:
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        return re.findall(r"^(#+) ", prose, re.MULTILINE)

    assert structure(EN) == structure(ZH)
    assert [len(row) for row in rows(EN)] == [len(row) for row in rows(ZH)]
    assert len(re.findall(r"^- ", EN, re.MULTILINE)) == len(re.findall(r"^- ", ZH, re.MULTILINE))


def test_both_have_the_same_commands() -> None:
    assert code_blocks(EN) == code_blocks(ZH)


def test_both_name_the_same_things_in_code_font() -> None:
    def names(text: str) -> set[str]:
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        return {name.replace(" 或 ", " or ") for name in re.findall(r"`([^`\n]+)`", prose)}

    assert names(EN) == names(ZH)


def test_the_settings_table_is_complete() -> None:
    assert [row[0] for row in setting_rows(EN)] == [f"`{variable}`" for variable, _, _ in settings()]
    for row, (_, default, meaning) in zip(setting_rows(EN), settings(), strict=True):
        assert row[2] == meaning
        if default is not None:
            assert row[1] == (f"`{default}`" if default else "")


def test_the_chinese_settings_table_has_the_same_variables_and_defaults() -> None:
    english = [row[:2] for row in setting_rows(EN)]
    chinese = [row[:2] for row in setting_rows(ZH)]
    # Then they agree, but for the one default that is a phrase
    assert [pair for pair in chinese if pair[1].isascii()] == [
        pair for pair in english if pair[0] != "`GLOWL_DATA_DIR`"
    ]
    assert [pair[0] for pair in chinese] == [pair[0] for pair in english]
    assert not any(row[2].isascii() for row in setting_rows(ZH) if row[0] != "`GLOWL_LOG_LEVEL`")


@BOTH
def test_python_examples_compile(text: str) -> None:
    examples = [code for language, code in code_blocks(text) if language == "python"]
    assert examples
    for code in examples:
        compile(code, "README", "exec")


@BOTH
def test_python_examples_use_only_names_that_they_or_earlier_ones_define(text: str) -> None:
    # A webhook's body and headers come from the reader's own web framework
    known = {*dir(builtins), "headers"}
    for language, code in code_blocks(text):
        if language != "python":
            continue
        used = set()
        for node in ast.walk(ast.parse(code)):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    used.add(name)
                case ast.Name(id=name) | ast.arg(arg=name) | ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                    known.add(name)
                case ast.alias(name=name, asname=other):
                    known.add(other or name)
        assert used - known == set()


@BOTH
def test_every_glowl_command_parses(text: str) -> None:
    # Given the commands of the blocks and of the tables and sentences
    lines = [line for _, code in code_blocks(text) for line in code.splitlines() if "bin/glowl " in line]
    inline = re.findall(r"`(?:[^`]*?bin/)?(glowl [a-z][^`\n]*)`", text)
    commands = [line.partition("glowl ")[2] for line in lines + inline]
    group = get_command(cli)
    # Then the command line knows each, those that end in an open option aside
    for command in commands:
        name, *arguments = shlex.split(command)
        known = group.commands[name]  # type: ignore[attr-defined]
        if arguments and arguments[-1] != "--models":
            known.make_context(name, arguments)
    assert {command.split()[0] for command in commands} == set(group.commands)  # type: ignore[attr-defined]


@BOTH
def test_make_targets_exist(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake (up|test|check|[a-z]+\b(?=`))", text))
    assert {"up", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@BOTH
def test_the_models_table_is_complete(text: str) -> None:
    listed = [row[0].strip("`") for row in rows(text) if row[0].strip("`") in MODEL_CHOICES]
    assert listed == list(MODEL_CHOICES)
    assert all(f"`{model.hub_id}`" in text for model in FULL_MODELS.values())
    assert f"{sum(model.size_bytes for model in FULL_MODELS.values()) / 1e9:.0f} GB" in text


@BOTH
def test_every_file_named_exists(text: str) -> None:
    named = re.findall(r"`((?:policies|engines|router|tests|deploy)/[\w./]*|[\w.]+\.yaml|LICENSE)`", text)
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert all((ROOT / link).is_file() for link in re.findall(r"\]\(([\w.]+)\)", text))


@BOTH
def test_every_file_that_an_example_reads_exists_or_is_written_by_it(text: str) -> None:
    code = "\n".join(code for _, code in code_blocks(text)).replace("-{1,2}.png", "-1.png").replace("{number}", "1")
    written = {name for pair in re.findall(r'cat > (\S+)|Path\("(\S+?)"\)\.write_text', code) for name in pair}
    names = set(re.findall(r"[\w./-]+\.(?:png|jpe?g|jsonl|csv)\b", code))
    assert len(names) >= 4
    assert {name for name in names if not (ROOT / name).is_file()} - written == set()
