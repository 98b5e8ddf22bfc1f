"""`glowl explain`: the service's own decision, offline."""

import json

import orjson
import pytest
from typer.testing import CliRunner, Result

from policies import multi_hop_weights
from policies.decide import decide
from policies.features import Hints, Question, measure
from policies.rules import load_preset
from router.cli.main import app

PNG = b"\x89PNG\r\n\x1a\n"


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


@pytest.mark.parametrize(
    ("arguments", "route"),
    [
        (["图里有几只猫?"], "fast"),
        (["How many cats are there?"], "deep"),
        (["--images", "2", "图里有几只猫?"], "deep"),
        (["--route", "fast", "How many cats are there?"], "fast"),
        (["--route", "deep", "图里有几只猫?"], "deep"),
    ],
)
def test_the_decision_is_the_policys(arguments, route):
    found = orjson.loads(explain("--json", *arguments).stdout)
    assert found["route"] == route
    assert found["rule"] in [rule.name for rule in load_preset("seed").rules]
    assert found["reasons"]


def test_the_decision_is_exactly_what_the_code_of_the_service_says():
    expected = decide(measure(Question("Compare both."), Hints()), load_preset("seed"))
    found = orjson.loads(explain("--json", "Compare both.").stdout)
    assert {key: found[key] for key in expected.to_dict()} == orjson.loads(orjson.dumps(expected.to_dict()))


def test_equal_pictures_count_once(tmp_path):
    for name, data in (("a.png", PNG), ("b.png", PNG), ("c.png", PNG + b"x")):
        (tmp_path / name).write_bytes(data)
    same = explain("--json", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "这是什么?")
    assert orjson.loads(same.stdout)["features"]["num_images"] == 1
    different = explain("--json", str(tmp_path / "a.png"), str(tmp_path / "c.png"), "https://e.org/d.png", "这是什么?")
    assert orjson.loads(different.stdout)["features"]["num_images"] == 3


def test_the_text_is_in_the_chosen_language():
    assert "deep" in explain("--lang", "en", "What is it?").stdout
    english, chinese = (explain("--lang", lang, "What is it?").stdout for lang in ("en", "zh"))
    assert english != chinese


def test_a_preset_file_is_taken_and_a_wrong_one_refused(tmp_path):
    (tmp_path / "all-deep.yaml").write_text(
        "version: 1\nname: all-deep\nsummary: everything deep\nrules:\n  - name: always\n    route: deep\n"
    )
    found = orjson.loads(explain("--json", "--preset", str(tmp_path / "all-deep.yaml"), "这是什么?").stdout)
    assert (found["preset"], found["rule"], found["route"]) == ("all-deep", "always", "deep")
    for preset in ("nonesuch", str(tmp_path / "none.yaml")):
        refused = explain("--preset", preset, "Q?")
        assert refused.exit_code == 2
        assert preset in refused.stderr


def test_wrong_arguments_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    assert explain("--images", "1", str(tmp_path / "a.png"), "Q?").exit_code == 2
    assert explain(str(tmp_path / "none.png"), "Q?").exit_code == 2
    assert explain(str(tmp_path / "a.png")).exit_code == 2
    assert explain("--route", "sideways", "Q?").exit_code == 2


def test_the_dial_the_engine_and_the_deadline_are_heard():
    low, high = (orjson.loads(explain("--json", "--dial", dial, "左边的人是谁?").stdout) for dial in ("0", "1"))
    assert (low["route"], low["multi_hop_threshold"]) == ("fast", 1.0)
    assert (high["route"], high["multi_hop_threshold"]) == ("deep", 0.0)
    assert orjson.loads(explain("--json", "--engine", "owl2", "Q?").stdout)["rule"] == "caller-chose-owl2"
    hurried = orjson.loads(explain("--json", "--deadline-ms", "10", "What is this?").stdout)
    assert hurried["rule"] == "deadline-too-short-for-a-job"
    assert explain("--engine", "gpt", "Q?").exit_code == 2


def test_the_change_that_would_flip_it_is_told():
    flip = orjson.loads(explain("--json", "What is this?").stdout)["flip"]
    assert (flip["feature"], flip["wanted"], flip["route"]) == ("language", "zh", "fast")
    assert flip["text"] in explain("--lang", "en", "What is this?").stdout
    assert flip["text_zh"] in explain("--lang", "zh", "What is this?").stdout


def test_an_empty_question_is_refused():
    for text in (" ", "\u200b", "\u3164\u2060"):
        refused = explain("--images", "2", text)
        assert refused.exit_code == 2
        assert "empty" in refused.stderr


def test_a_queue_said_to_be_old_is_decided_upon_and_told():
    english = explain("--lang", "en", "--queue-age", "owl2=400", "--queue-age", "glm=3", "How many cats are there?")
    assert "answered by glm alone" in english.stdout
    assert "engines:          glm up, queue 3 s old; owl2 up, queue 400 s old" in english.stdout
    chinese = explain("--lang", "zh", "--queue-age", "owl2=400", "How many cats are there?").stdout
    assert "引擎：glm 可用，队列已等待 0 秒；owl2 可用，队列已等待 400 秒" in chinese
    assert "engines:" not in explain("--lang", "en", "How many cats are there?").stdout


def test_a_job_said_to_take_long_is_held_against_the_deadline():
    arguments = ["--json", "--deadline-ms", "40000", "How many cats are there?"]
    found = [orjson.loads(explain("--job-ms", ms, *arguments).stdout)["rule"] for ms in ("40000", "40001")]
    assert found == ["english", "deadline-too-short-for-a-job"]


@pytest.mark.parametrize("value", ["owl2", "owl3=4", "owl2=-1", "owl2=nan", "owl2=inf", "=", "owl2=4s"])
def test_a_queue_age_that_is_none_is_refused(value):
    result = explain("--queue-age", value, "How many cats are there?")
    assert result.exit_code == 2
    assert "ENGINE=SECONDS" in result.output


def test_fitted_weights_count_here_too_and_a_wrong_file_is_refused(tmp_path, monkeypatch):
    weights = json.loads(multi_hop_weights.to_text(multi_hop_weights.shipped()))
    weights["zh"]["bias"] = 50.0
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(weights))
    try:
        monkeypatch.setenv("GLOWL_MULTI_HOP_WEIGHTS", str(path))
        fitted = explain("图里有什么？", "--json")
        path.write_text("{}")
        wrong = explain("图里有什么？")
    finally:
        multi_hop_weights.use(None)

    assert json.loads(fitted.output)["rule"] == "multi-hop"
    assert (wrong.exit_code, "GLOWL_MULTI_HOP_WEIGHTS" in wrong.output) == (2, True)
