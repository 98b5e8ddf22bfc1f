from __future__ import annotations

from pathlib import Path

import pytest

from engines.adapter_names import (
    UnknownAdapterError,
    check_adapter,
    find_adapter,
    lacks_adapter,
    model_with,
    parse_adapter,
    parse_adapters,
    split_model,
)
from engines.base import EngineInfo

INFO = EngineInfo("glm", "glm-4.6v-flash", "pocket", 100, 4, adapters=("receipts", "Tags-2"))


def test_an_adapter_is_a_name_and_a_source() -> None:
    assert parse_adapter(" receipts = /data/a=b ") == ("receipts", "/data/a=b")
    assert parse_adapter("v1.2_x-y=org/name") == ("v1.2_x-y", "org/name")


@pytest.mark.parametrize(
    "text", ["", "receipts", "receipts=", "=x", "a:b=x", "a b=x", "-a=x", "票据=x", "a" * 65 + "=x"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=FOLDER_OR_HUB_ID|no name for an adapter"):
        parse_adapter(text)


def test_two_adapters_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two adapters named 'A'"):
        parse_adapters(["a=x", "A=y"])


@pytest.mark.parametrize(
    ("model", "parts"), [("glm", ("glm", "")), ("glm:a", ("glm", "a")), ("glm:", ("glm", "")), ("a:b:c", ("a", "b:c"))]
)
def test_a_model_name_has_its_adapter_behind_a_colon(model: str, parts: tuple[str, str]) -> None:
    assert split_model(model) == parts


def test_a_model_without_an_adapter_keeps_its_name() -> None:
    assert model_with("glm", "") == "glm"
    assert model_with("glm", "a") == "glm:a"


def test_capitals_do_not_matter() -> None:
    assert find_adapter("tags-2", INFO.adapters) == "Tags-2"
    assert find_adapter("tags", INFO.adapters) is None
    assert find_adapter("", INFO.adapters) is None


def test_an_unknown_adapter_is_a_404_that_lists_the_known_ones() -> None:
    check_adapter("", INFO)
    check_adapter("receipts", INFO)
    with pytest.raises(UnknownAdapterError) as caught:
        check_adapter("nope", INFO)

    assert (caught.value.status_code, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert caught.value.message == (
        "The model 'glm-4.6v-flash-pocket:nope' does not exist here; adapters are: "
        "'glm-4.6v-flash-pocket:receipts', 'glm-4.6v-flash-pocket:Tags-2'."
    )


def test_an_engine_without_adapters_says_so() -> None:
    with pytest.raises(UnknownAdapterError, match="'mplug-owl2' has no adapters"):
        check_adapter("a", EngineInfo("owl2", "mplug-owl2", "full", 100, 4))


def test_a_place_without_an_adapter_is_known_before_any_engine_starts(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "adapter_config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert not lacks_adapter(str(whole))
    assert not lacks_adapter("org/name-1.0")  # may be on the hub
    for source in ("missing", "empty", "file", "file/inside", "a" * 300):
        assert lacks_adapter(str(tmp_path / source)), source
    for source in ("./org/name", "../name", "~/name", "name", "org/name/more", "C:\\adapters\\name", "org/"):
        assert lacks_adapter(source), source
