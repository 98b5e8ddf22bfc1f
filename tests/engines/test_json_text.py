import json

import orjson
import pytest

from engines.json_text import dump_line, to_one_line

# Everything that `str.splitlines` takes for the end of a line.
LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("character", LINE_ENDS)
def test_no_character_inside_a_text_ends_the_line(character):
    value = {f"key{character}": [f"a{character}b", {"x": f"{character}{character}"}]}

    line = dump_line(value)

    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line) == value


@pytest.mark.parametrize("character", LINE_ENDS)
def test_json_that_another_encoder_wrote_is_made_one_line(character):
    value = {"key": f"中a{character}{character}b"}

    line = to_one_line(json.dumps(value, ensure_ascii=False))

    assert line.splitlines() == [line]
    assert "中" in line
    assert json.loads(line) == value


def test_neighbours_of_the_escaped_characters_stay_as_they_are():
    value = "\u2027 \u202a \u0084 \u0086 \xe2 \xc2 中文 🦉"

    assert dump_line(value) == orjson.dumps(value)
