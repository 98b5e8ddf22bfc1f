"""How models are named, and where their hubs and folders are."""

from pathlib import Path

import pytest

from engines.hub.names import ModelName, model_dir, place_of


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("zai-org/GLM-4.6V-Flash", ModelName("zai-org/GLM-4.6V-Flash")),
        ("zai-org/GLM-4.6V-Flash@v1.0", ModelName("zai-org/GLM-4.6V-Flash", revision="v1.0")),
        ("modelscope:ZhipuAI/GLM-4.6V-Flash", ModelName("ZhipuAI/GLM-4.6V-Flash", "modelscope")),
        ("modelscope:iic/mPLUG-Owl2@refs/pr/1", ModelName("iic/mPLUG-Owl2", "modelscope", "refs/pr/1")),
        ("elsewhere:iic/mPLUG-Owl2", None),
        ("/data/glm", None),
        ("./glm", None),
        ("glm", None),
        ("a/b/c", None),
        ("org/model@", None),
    ],
)
def test_a_name_is_understood_and_written_as_it_was(text, name):
    assert ModelName.parse(text) == name
    assert name is None or str(name) == text


def test_the_hubs_own_variables_say_where_it_is(tmp_path):
    place = place_of("huggingface", {"HF_ENDPOINT": "https://mirror/hf/", "HF_HOME": str(tmp_path), "HF_TOKEN": "a"})
    assert (place.endpoint, place.cache, place.token, place.is_offline) == (
        "https://mirror/hf",
        tmp_path / "hub",
        "a",
        False,
    )
    assert place_of("huggingface", {"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}).cache == Path("/a")
    assert place_of("huggingface", {"XDG_CACHE_HOME": "/c"}).cache == Path("/c/huggingface/hub")
    assert place_of("huggingface", {"HF_HUB_OFFLINE": "1"}).is_offline
    # An older name, which what is said about it names
    place = place_of("huggingface", {"TRANSFORMERS_OFFLINE": "ON"})
    assert (place.is_offline, place.offline_variable) == (True, "TRANSFORMERS_OFFLINE")
    assert not place_of("modelscope", {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}).is_offline
    # A token that `hf auth login` has kept
    (tmp_path / "token").write_text("kept\n")
    assert place_of("huggingface", {"HF_HOME": str(tmp_path)}).token == "kept"

    place = place_of("modelscope", {"MODELSCOPE_CACHE": "/ms", "MODELSCOPE_API_TOKEN": "b"})
    assert (place.endpoint, place.cache, place.token) == ("https://modelscope.cn", Path("/ms"), "b")


def test_each_hubs_client_has_its_own_folders():
    hf, ms = ModelName("org/m.1"), ModelName("org/m.1", "modelscope")
    assert model_dir(hf, place_of("huggingface", {"HF_HUB_CACHE": "/a"})) == Path("/a/models--org--m.1")
    assert model_dir(ms, place_of("modelscope", {"MODELSCOPE_CACHE": "/b"})) == Path("/b/models/org--m.1")
