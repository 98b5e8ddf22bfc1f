"""`glowl finetune` becomes the process of a run, or says in one line why not."""

import os
import sys

import pytest
from typer.testing import CliRunner

from router.cli import finetune
from router.cli.main import app


@pytest.fixture
def argv(monkeypatch):
    """What the command became."""
    became = []
    monkeypatch.setattr(os, "execve", lambda _path, argv, _environment: became.append(argv))
    monkeypatch.setattr(finetune, "has_engine_packages", lambda: True)
    monkeypatch.setattr(finetune, "find_spec", lambda name: name)
    return became


def test_it_becomes_a_run_with_the_options_that_were_given(argv):
    options = ["--data", "d", "--out", "o", "--resume", "--lang", "zh"]
    ended = CliRunner().invoke(app, ["finetune", "glm", *options])

    assert ended.exit_code == 0
    run = [sys.executable, "-P", "-m", "engines.finetune", "glm"]
    assert argv == [[*run, "--data", "d", "--model", "pocket", "--lang", "zh", "--out", "o", "--resume"]]


def test_another_model_is_wrong_usage(argv):
    assert CliRunner().invoke(app, ["finetune", "gpt", "--data", "d"]).exit_code == 2
    assert argv == []


def test_without_peft_the_extra_is_named(argv, monkeypatch):
    monkeypatch.setattr(finetune, "find_spec", lambda _name: None)

    ended = CliRunner().invoke(app, ["finetune", "glm", "--data", "d"])

    assert ended.exit_code == 1
    assert "pip install 'glowl[finetune]'" in ended.output
    assert argv == []


def test_a_data_set_that_cannot_be_used_is_said_in_the_language_of_the_command(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")

    for language, said in (
        ("en", "`messages` must be a list"),
        ("zh", "train.jsonl 第 1 行：`messages` 必须是消息列表"),
    ):
        ended = CliRunner().invoke(app, ["dataset", "card", str(tmp_path), "--lang", language])
        assert ended.exit_code == 1
        assert said in ended.output
