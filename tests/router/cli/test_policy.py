"""`glowl policy`: presets and tables checked, presets compared, labelled questions measured."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from router.cli.main import app

PRESET = "version: 1\nname: mine\nsummary: s\nrules:\n  - {name: always, route: fast}\n"
TABLE = """\
preset: seed
cases:
  - {text: "图里有几只猫？", images: 1, route: fast, rule: chinese}
  - {text: "What is this?", images: 1, service_tier: priority, route: fast, engine: glm}
  - {text: "What is this?", images: 1, down: [owl2], route: fast}
"""


def policy(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["policy", *map(str, arguments)])


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n\n")
    return path


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"text": "图里有几只猫？", "n_images": 1},
        {"text": "What is this?", "n_images": 1},
        {"text": "这两张图有什么不同？", "n_images": 2},
        {"text": "你好"},
    ]
    return write_rows(tmp_path / "questions.jsonl", rows)


def test_a_good_preset_is_called_valid_and_a_bad_one_is_refused_with_its_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(PRESET)
    assert "mine" in policy("validate", path).stdout

    path.write_text(PRESET.replace("fast", "fats").replace("summary: s", "summary: 3"))
    refused = policy("validate", path)

    assert refused.exit_code == 1
    assert "line 3" in refused.stderr
    assert "line 5" in refused.stderr


def test_a_table_passes_when_every_case_is_as_expected(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(TABLE)

    result = policy("test", path)

    assert (result.exit_code, result.stdout.strip()) == (0, "3 of 3 cases as expected")


def test_a_case_that_differs_is_named_with_what_came_instead(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(TABLE.replace("rule: chinese", "rule: english, engine: owl2"))

    result = policy("test", path)

    assert result.exit_code == 1
    assert "engine: glm, expected owl2; rule: chinese, expected english" in result.stdout
    assert "2 of 3 cases" in result.stdout


def test_a_table_may_name_a_preset_beside_it_and_the_option_outranks_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(PRESET)
    path = tmp_path / "table.yaml"
    path.write_text('preset: mine.yaml\ncases:\n  - {text: "What is this?", route: fast}\n')

    assert policy("test", path).exit_code == 0
    assert policy("test", path, "--preset", "seed").exit_code == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("cases:\n  - {text: a}\n", "line 2: cases.0: nothing is expected of it"),
        ("cases:\n  - {text: a, rout: fast}\n", "line 2: cases.0.rout: not a known key; accepted: text, images"),
        ("cases: []\n", "line 1: cases"),
        ("- 1\n", "line 1: a mapping is expected"),
        ("cases: [\n", "valid YAML is expected"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(tmp_path, content, said):
    path = tmp_path / "table.yaml"
    path.write_text(content)

    result = policy("test", path)

    assert result.exit_code == 1
    assert said in result.stderr


def test_two_presets_are_compared_with_a_picture_of_their_route_mix(tmp_path, questions):
    svg = tmp_path / "mix.svg"

    result = policy("diff", "seed", "glm-only", questions, "--svg", svg)

    assert result.exit_code == 0
    assert "seed (4 questions)" in result.stdout
    assert "2 of 4 questions change their route" in result.stdout
    assert "deep (english) -> fast (always-glm): What is this?" in result.stdout
    bars = [line for line in result.stdout.splitlines() if "█" in line]
    assert [bar.count("█") for bar in bars] == [20, 20, 40]
    titles = [element.text for element in ElementTree.parse(svg).iter() if element.tag.endswith("title")]
    assert titles == ["fast: 2 (50.0%)", "deep, owl2: 2 (50.0%)", "fast: 4 (100.0%)"]


def test_the_same_preset_twice_changes_nothing(questions):
    assert "0 of 4" in policy("diff", "seed", "seed", questions).stdout


def test_labelled_questions_are_measured_per_source(tmp_path):
    def hops(text, label, number):
        return {
            "id": str(number), "text": text, "language": "zh", "source": "made", "label_hops": label,
            "label_kind": "structural", "group": str(number),
        }  # fmt: skip

    rows = [
        *(hops("这是什么？", "simple", number) for number in range(3)),
        *(hops("左边穿红衣服的人和右边的人谁更高，为什么？", "multi_hop", number) for number in range(3, 6)),
        {"text": "hello there", "language": "en", "source": "made", "length_words": "1-2", "matrix": None},
        {"text": "两张图", "language": "zh", "source": "made", "label_multi_image": True},
    ]

    result = policy("eval", write_rows(tmp_path / "rows.jsonl", rows))

    assert result.exit_code == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines()]
    assert ["zh", "made", "structural", "6", "1.000", "1.000-1.000", "1.000"] in [line[:7] for line in lines]
    assert ["en", "1-2 words", "made", "1", "1.0000"] in [line[:5] for line in lines]
    assert ["several", "zh", "made", "1", "1.0000"] in [line[:5] for line in lines]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\n', "no row has a label"),
        (b'{"text": "a"}\n{"text": \n', "line 2"),
        (b"[]\n", "a string `text` is expected"),
        (b'{"text": "a", "n_images": -1}\n', "`n_images`"),
        (b'{"text": "a", "label_hops": "simple"}\n', "language, source"),
        (b"\n", "has no rows"),
        (b"\x1f\x8b\x08", "unpack it first"),
        ("text é".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_measured_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    result = policy("eval", path)

    assert result.exit_code != 0
    assert said in result.stderr
    assert "rows.jsonl" in result.stderr


def test_what_is_not_there_is_refused(tmp_path, questions):
    assert policy("validate", tmp_path / "none.yaml").exit_code == 1
    assert policy("eval", tmp_path / "none.jsonl").exit_code == 2
    assert policy("diff", "seed", "nonesuch", questions).exit_code == 2
    assert policy("diff", "seed", "glm-only", questions, "--svg", tmp_path / "no" / "a.svg").exit_code == 1
