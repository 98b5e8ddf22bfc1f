"""What tools take, what they refuse, and what they ask the service."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from router.mcp.tools import TOOLS, ArgumentsError

# npm's @z_ai/mcp-server 0.1.5: what agents already call. Required parameters first.
OF_THE_MAKER = {
    "ui_to_artifact": ("image_source output_type prompt", ""),
    "extract_text_from_screenshot": ("image_source prompt", "programming_language"),
    "diagnose_error_screenshot": ("image_source prompt", "context"),
    "understand_technical_diagram": ("image_source prompt", "diagram_type"),
    "analyze_data_visualization": ("image_source prompt", "analysis_focus"),
    "ui_diff_check": ("expected_image_source actual_image_source prompt", ""),
    "analyze_image": ("image_source prompt", ""),
}


def question_of(name: str, **arguments: Any) -> Any:
    tool = TOOLS[name]
    assert tool.to_question is not None
    return tool.to_question(tool.check(arguments), "en")


def refusal(name: str, **arguments: Any) -> str:
    with pytest.raises(ArgumentsError) as caught:
        question_of(name, **arguments)
    assert caught.value.text.zh
    return caught.value.text.en


@pytest.mark.parametrize("name", OF_THE_MAKER)
def test_the_makers_tools_take_what_agents_send_them(name: str) -> None:
    required, optional = (names.split() for names in OF_THE_MAKER[name])
    schema = TOOLS[name].schema("en")
    assert set(schema["required"]) == set(required)
    assert set(schema["properties"]) == {*required, *optional, "patience_s"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_schemas_are_plain_enough_for_every_client(language: Any) -> None:
    for tool in TOOLS.values():
        schema = tool.schema(language)
        Draft202012Validator.check_schema(schema)
        for each in schema["properties"].values():
            assert isinstance(each["type"], str)  # some clients know neither anyOf nor lists of types
            assert each["description"]


def test_arguments_are_taken_as_they_are_meant() -> None:
    look = TOOLS["look"]
    base = {"question": "What?", "pictures": ["a.png"]}
    assert look.check({**base, "pictures": "a.png"}) == base
    assert look.check({**base, "pictures": '["a.png"]'}) == base
    assert look.check({**base, "patience_s": "30", "route": None}) == {**base, "patience_s": 30}
    assert look.check({**base, "route": ""}) == base
    assert look.check({**base, "route": " "}) == base


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "'question' is missing"),
        ({"question": "What?"}, "'pictures' is missing"),
        ({"question": "What?", "pictures": []}, "a list of 1 or more texts"),
        ({"question": "What?", "pictures": [1]}, "a list of 1 or more texts"),
        ({"question": 5, "pictures": ["a.png"]}, "'question' must be a text"),
        ({"question": " \n", "pictures": ["a.png"]}, "'question' must be a text"),
        ({"question": "What?", "pictures": ["a.png"], "patience_s": "soon"}, "a number from 0 to 3600"),
        ({"question": "What?", "pictures": ["a.png"], "patience_s": 4000}, "a number from 0 to 3600"),
        ({"question": "What?", "pictures": ["a.png"], "route": "slow"}, "one of auto, fast, deep"),
        ({"question": "What?", "pictures": ["a.png"], "image": "b.png"}, "takes no 'image'; it takes 'question'"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_would_be_right(arguments: dict[str, Any], said: str) -> None:
    assert said in refusal("look", **arguments)


def test_a_blank_id_is_no_id() -> None:
    # Without an id the route is that of all responses, which would be read as one without an answer.
    with pytest.raises(ArgumentsError, match="'id' must be a text"):
        TOOLS["refined"].check({"id": " "})


def test_fields_are_read_by_a_schema_or_a_template_and_not_by_both() -> None:
    assert "one of both" in refusal("read_fields", pictures=["a.png"])
    assert "one of both" in refusal("read_fields", pictures=["a.png"], schema={}, template="receipt")
    assert "receipt, price_tag, table" in refusal("read_fields", pictures=["a.png"], template="poem")
    for kind in ("array", "integer", ["string", "null"]):
        assert '{"type": "object", "properties"' in refusal("read_fields", pictures=["a.png"], schema={"type": kind})
    for schema in ({}, {"type": ["object", "null"]}, {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}):
        assert question_of("read_fields", pictures=["a.png"], schema=schema).schema == schema
    by_schema = question_of("read_fields", pictures=["a.png"], schema='{"type": "object"}').to_body([])
    assert by_schema["text"]["format"]["schema"] == {"type": "object"}
    by_template = question_of("read_fields", pictures=["a.png"], template="receipt").to_body([])
    assert by_template["hybrid"]["template"] == "receipt"
    assert "text" not in by_template


def test_every_question_is_a_job_that_outlives_its_call() -> None:
    body = question_of("look", question="What?", pictures=["a.png", "b.png"]).to_body(["u1", "u2"])
    assert body["background"]
    assert body["stream"]
    content = body["input"][0]["content"]
    assert [part.get("image_url") for part in content] == [None, "u1", "u2"]
    assert "instructions" not in body


def test_print_is_read_by_glm_and_judged_by_both() -> None:
    picture = {"image_source": "a.png", "prompt": "Do it."}
    assert question_of("extract_text_from_screenshot", **picture).route == "fast"
    assert question_of("ui_to_artifact", **picture, output_type="code").route == "fast"
    assert question_of("read_document", pages="a.png").route == "fast"
    assert question_of("diagnose_error_screenshot", **picture).merge == "compose"
    assert question_of("analyze_image", **picture).merge is None


def test_the_models_are_told_in_the_questions_language_and_what_the_agent_knows() -> None:
    tool = "diagnose_error_screenshot"
    english = question_of(tool, image_source="a.png", prompt="Why?", context="during {npm} install").to_body([])
    assert english["instructions"].endswith("during {npm} install")
    chinese = question_of(tool, image_source="a.png", prompt="为什么报错？").to_body([])
    assert chinese["instructions"].startswith("图片显示一个错误")
