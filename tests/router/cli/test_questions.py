"""Files of questions: every cell and key that is given is used, or the file is refused in one line."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from router.cli.questions import RowError, open_lines

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
CASES = Path(__file__).parents[4] / "shared" / "cases"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "图.png").write_bytes(PNG)
    return tmp_path


def read(file: Path, encoding: str | None = None) -> list[dict[str, Any]]:
    with open_lines(file, "/v1/chat/completions", "glowl", "en", encoding) as (lines, _encoding):
        return [json.loads(line) for line in lines]


def asked(line: dict[str, Any]) -> tuple[str, list[str]]:
    """The question and its pictures."""
    *pictures, text = line["body"]["messages"][0]["content"]
    return text["text"], [part["image_url"]["url"] for part in pictures]


def refusal(file: Path, language: Any = "en") -> str:
    with pytest.raises(RowError) as error, open_lines(file, "/v1/chat/completions", "glowl", language):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "table",
    [
        "question,image\nWhat is it?,a.png\n",
        "question, image\nWhat is it?, a.png\n",
        "Question , IMAGE\n  What is it?  ,  a.png  \n",
        '"question", "image"\n"What is it?", "a.png"\n',
        "image;question\na.png;What is it?\n",
        "question\timage\r\nWhat is it?\ta.png\r\n",
        "question|image\nWhat is it?|a.png\n",
        "sep=;\r\nquestion;image\r\nWhat is it?;a.png\r\n",
        "question,image\rWhat is it?,a.png\r",
        "question,image,\nWhat is it?,a.png,\n,,\n",
        "\xa0question\xa0,image\nWhat is it?,./a.png",
        "id,image,question,model\n,a.png,What is it?,\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read_however_its_program_wrote_it(folder, table, encoding):
    file = folder / "q.csv"
    file.write_bytes(table.encode(encoding))
    (line,) = read(file)
    assert asked(line) == ("What is it?", [URL])


def test_a_table_in_gbk_with_a_chinese_file_name_is_read(folder):
    file = folder / "q.csv"
    file.write_bytes("question,image\r\n图中有什么？,图.png\r\n".encode("gbk"))
    assert asked(read(file)[0]) == ("图中有什么？", [URL])


def test_the_name_of_the_file_does_not_decide_what_is_in_it(folder):
    (folder / "table.txt").write_text("question,image\nWhat?,a.png\n")
    (folder / "lines.csv").write_text('{"question": "What?", "image": "a.png"}\n')
    assert read(folder / "table.txt")[0]["body"] == read(folder / "lines.csv")[0]["body"]


def test_several_pictures_and_large_cells_come_along(folder):
    file = folder / "q.csv"
    file.write_text(f'id,question,image,image,model\nx,"Which, if any,\nis red?",a.png,"{URL + "A" * 200_000}",m\n')
    (line,) = read(file)
    assert (line["custom_id"], line["body"]["model"]) == ("x", "m")
    assert asked(line) == ("Which, if any,\nis red?", [URL, URL + "A" * 200_000])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("question,picture\nWhat?,a.png\n", "unknown columns: picture"),
        ("question,images\nWhat?,a.png\n", "unknown columns: images"),
        ("question,image,img\nWhat?,a.png,\n", "unknown columns: img"),
        ("question，image\nWhat?，a.png\n", "must name the columns"),
        ("What is it?,a.png\n", "must name the columns"),
        ("image\na.png\n", "must name the columns"),
        ("question,question\na,b\n", "two columns"),
        ("question,image\nWhat is it, really?,a.png\n", "line 2: 3 cells"),
        ("question,image\nok,\nWhat is it?;a.png\n", "line 3: 1 cells"),
        ("question,image\nok,\n\n,a.png\n", "line 4: the question is empty"),
        ("question\nok\n\u200b\u2060\n", "line 3: the question is empty"),
        ("question,,image\nWhat?,a.png,\n", "'a.png' is in a column without a name"),
        ('question,image\n"What?,a.png\n', "line 2"),
        ("question,image\nWhat?,b.png\n", "b.png"),
        ("question,image\nWhat?,.\n", "directory"),
        ("question,image\nWhat?,~no-such-user/a.png\n", "line 2"),
        (f"question,image\nWhat?,{'a' * 5000}.png\n", "too long"),
        ("question,image\nWhat?,q.csv\n", "not a picture"),
        ("question,id\na,1\nb,1\n", "line 3: the id 1 is that of line 2"),
        ("question,id\na,row-3\nb,\n", "line 3: the id row-3 is that of line 2"),
        ("question,image\n\n,,\n", "no questions"),
        ("\n \n", "no questions"),
        ("", "no questions"),
    ],
)
def test_a_table_that_would_be_answered_otherwise_is_refused(folder, table, said):
    file = folder / "q.csv"
    file.write_text(table, encoding="utf-8")
    assert said in refusal(file)
    assert not refusal(file, "zh").isascii()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "What?"}, "unknown keys: prompt"),
        ({"question": "What?", "img": "a.png"}, "unknown keys: img"),
        ({"question": "What?", "Images": ["a.png"]}, "unknown keys: Images"),
        ({"question": "What?", "image": "a.png", "images": ["a.png"]}, '"images"'),
        ({"question": "What?", "image": ["a.png"]}, "list of files"),
        ({"question": "What?", "images": "a.png"}, "list of files"),
        ({"question": "What?", "images": [{"url": "a.png"}]}, "list of files"),
        ({"question": "What?", "images": [""]}, "list of files"),
        ({"question": ["What?"]}, "question"),
        ({"question": " "}, "question"),
        ({"question": None}, "question"),
        ({"question": "What?", "id": 1.5}, '"id"'),
        ({"question": "What?", "model": 7}, '"model"'),
        ({"question": "What?", "image": "a\0.png"}, "no such file"),
    ],
)
def test_a_json_row_that_would_be_answered_otherwise_is_refused(folder, row, said):
    file = folder / "q.jsonl"
    file.write_text('{"question": "ok"}\n' + json.dumps(row))
    assert "line 2" in refusal(file)
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"question": "What?"}]', "one JSON array"),
        ('{\n"question": "What?"\n}', "line 1: not valid JSON"),
        ('{"question": "a"}\n{"question": "b"', "line 2: not valid JSON"),
        ('{"question": "a"}\n{"question": "\\ud800"}', "line 2: not valid JSON"),
        ('{"question": "a", "image": "1.png", "image": "2.png"}', "line 1: 'image' is there twice"),
        ('{"question": "a"}\n"b"', "line 2"),
        ('{"question": "a"}\n{"custom_id": "x", "body": {}}', "unknown keys: custom_id, body"),
    ],
)
def test_a_file_that_is_not_json_lines_is_refused(folder, text, said):
    file = folder / "q.jsonl"
    file.write_text(text)
    assert said in refusal(file)


def test_json_lines_keep_their_separators_and_numbers_as_ids(folder):
    file = folder / "q.jsonl"
    file.write_bytes('\ufeff{"question": "a\u2028b", "image": "", "id": 7}\r\n\r\n{"question": "c"}\r'.encode())
    first, second = read(file)
    assert (asked(first), first["custom_id"]) == (("a\u2028b", []), "7")
    assert second["custom_id"] == "row-3"


def test_batch_lines_stay_as_they_are_and_are_sent_as_utf_8(folder):
    line = '{"custom_id": "第一张图片", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'
    file = folder / "lines.jsonl"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gbk"):
        file.write_bytes((line + "no JSON\n").encode(encoding))
        with open_lines(file, "/v1/responses", "glowl", "en") as (lines, _encoding):
            assert lines.read().removeprefix(b"\xef\xbb\xbf").decode() == line + "no JSON\n"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")
@pytest.mark.parametrize("name", ["questions-space-after-comma.csv", "questions-in-gbk.csv"])
def test_the_cases_are_asked_with_their_picture(name):
    text, pictures = asked(read(CASES / name)[0])
    assert text == "图中的菱形是什么颜色的？"
    assert [picture.partition(",")[0] for picture in pictures] == ["data:image/png;base64"]
