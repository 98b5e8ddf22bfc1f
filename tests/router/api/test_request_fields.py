"""Every field that a client may send: honoured, or refused by name; never dropped while the answer depends on it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params
from pydantic import ValidationError

from engines.base import SamplingParams
from router.api import other_fields
from router.api.formats import to_chat_format, to_responses_format
from router.api.invalid import to_invalid
from router.api.knobs import to_chat_sampling, to_responses_sampling, to_thinking
from router.api.schemas import ChatRequest, Hybrid, ResponsesRequest
from router.errors import BadRequestError

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
HELLO = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate_json(json.dumps({**HELLO, **fields}))


def responses(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate_json(json.dumps({"model": "glowl", "input": "hi", **fields}))


def chat_sampling(request: ChatRequest) -> SamplingParams:
    return to_chat_sampling(request, None)


def responses_sampling(request: ResponsesRequest) -> SamplingParams:
    return to_responses_sampling(request, None)


def refused_chat(**fields: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        chat_sampling(chat(**fields))
    return caught.value


# --- OpenAI's own fields ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "params", "rules"),
    [
        (ChatRequest, completion_create_params.CompletionCreateParamsBase, other_fields._CHAT_ONLY),
        (ResponsesRequest, response_create_params.ResponseCreateParamsBase, other_fields._RESPONSES_ONLY),
    ],
)
def test_every_field_of_openais_api_is_decided_about(model: Any, params: Any, rules: Any) -> None:
    decided = {*model.model_fields, *other_fields._OPENAI, *other_fields.HARMLESS, *rules}

    assert set(params.__annotations__) - decided == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {"50": 10}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {"search_context_size": "low"}),
        ("prompt", {"id": "pmpt_1"}),
        ("verbosity", "low"),
        ("moderation", {"model": "omni"}),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "get_weather"}}),
        ("tool_choice", {"type": "allowed_tools", "mode": "required", "tools": []}),
        ("min_tokens", 5),
        ("ignore_eos", True),
        ("stop_token_ids", [3]),
        ("best_of", 2),
        ("use_beam_search", True),
        ("skip_special_tokens", False),
        ("guided_regex", "a+"),
        ("guided_choice", ["a", "b"]),
        ("guided_grammar", "root ::= 'a'"),
        ("regex", "a+"),
        ("ebnf", "root ::= 'a'"),
        ("grammar", "root ::= 'a'"),
        ("format", "json"),
        ("bad_words", ["x"]),
        ("truncate_prompt_tokens", 100),
        ("chat_template", "{{ messages }}"),
        ("options", {"num_ctx": 100}),
        ("system", "Answer in French."),
        ("max_new_tokens", 10),
        ("extra_body", {"x": 1}),
        ("nvext", {"x": 1}),
        ("guided_decoding", {"x": 1}),
        ("stop_strings", ["x"]),
        ("stopSequences", ["x"]),
        ("stop_words", ["x"]),
        ("response_schema", {"x": 1}),
        ("response_mime_type", "application/json"),
        ("num_return_sequences", 2),
        ("do_sample", True),
        ("maxTokens", 10),
        ("maxOutputTokens", 10),
        ("topP", 0.5),
        ("topK", 40),
        ("system_prompt", "x"),
        ("system_instruction", "x"),
        ("systemInstruction", "x"),
        ("preamble", "x"),
        ("min_length", 5),
        ("max_length", 50),
        ("suppress_tokens", [5]),
        ("bad_words_ids", ["x"]),
        ("banned_tokens", ["x"]),
        ("negative_prompt", "x"),
        ("guidance_scale", 1.5),
        ("generation_config", {"x": 1}),
        ("generationConfig", {"x": 1}),
        ("lora_name", "x"),
        ("lora_request", {"lora_name": "a"}),
        ("adapter_id", "x"),
        ("num_ctx", 4096),
        ("num_predict", 10),
        ("mirostat_mode", 2),
        ("continue_final_message", True),
        ("add_generation_prompt", False),
        ("web_search", True),
        ("web_search_options", {"x": 1}),
        ("search_parameters", {"mode": "on"}),
        ("output_config", {"x": 1}),
        ("prompt_template", "x"),
        ("responseSchema", {"x": 1}),
        ("frequencyPenalty", 0.5),
        ("maxCompletionTokens", 10),
        ("FrequencyPenalty", 0.5),
        ("repetition-penalty", 1.5),
        ("image", "data:,"),
        ("image_url", "https://example.com/a.png"),
        ("imageUrls", ["https://example.com/a.png"]),
        ("image_data", ["x"]),
        ("multi_modal_data", {"image": "x"}),
        ("attachments", [{"x": 1}]),
        ("files", ["file-1"]),
        ("file_ids", ["file-1"]),
        ("video", "https://example.com/a.mp4"),
        ("output_format", "json"),
        ("output_schema", {"type": "object"}),
        ("response_json_schema", {"type": "object"}),
        ("json_mode", True),
        ("schema", {"type": "object"}),
        ("stop_str", "x"),
        ("stopSequence", "x"),
        ("eos_token_id", 3),
        ("candidate_count", 2),
        ("candidateCount", 2),
        ("num_choices", 2),
        ("prompt_token_ids", [1, 2]),
        ("prompt_embeds", "x"),
        ("chat_history", [{"x": 1}]),
        ("contents", [{"x": 1}]),
        ("data_sources", [{"x": 1}]),
        ("mcp_servers", [{"x": 1}]),
        ("prefill", "x"),
        ("webhook_url", "https://example.com/hook"),
        ("safe_prompt", True),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_field_that_would_change_the_answer_is_refused_by_name(endpoint: str, name: str, value: Any) -> None:
    def read() -> object:
        if endpoint == "chat":
            return chat_sampling(chat(**{name: value}))
        return responses_sampling(responses(**{name: value}))

    with pytest.raises(BadRequestError) as caught:
        read()

    assert (caught.value.param, caught.value.status_code) == (name, 400)
    assert f"'{name}'" in caught.value.message
    assert f"'{name}'" in caught.value.message_zh
    assert caught.value.message_zh.isascii() is False


def test_a_chat_is_never_cut() -> None:
    with pytest.raises(BadRequestError, match="/v1/responses"):
        chat_sampling(chat(truncation="auto"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 0),
        ("presence_penalty", 0.0),
        ("logit_bias", {"50": 0}),
        ("modalities", ["text"]),
        ("truncation", "disabled"),
        ("verbosity", "medium"),
        ("repetition_penalty", 1.0),
        ("top_k", -1),
        ("min_p", 0.0),
        ("ignore_eos", False),
        ("stop_token_ids", []),
        ("best_of", 1),
        ("skip_special_tokens", True),
        ("tool_choice", "auto"),
        ("tool_choice", "none"),
        ("user", "u-1"),
        ("safety_identifier", "s"),
        ("prompt_cache_key", "k"),
        ("prediction", {"type": "content", "content": "x"}),
        ("parallel_tool_calls", True),
        ("nobody_knows_this", {"a": 1}),
        ("response_mime_type", "text/plain"),
        ("num_return_sequences", 1),
        ("do_sample", False),
        ("topP", 1.0),
        ("topK", -1),
        ("min_length", 0),
        ("guidance_scale", 1.0),
        ("mirostat_mode", 0),
        ("continue_final_message", False),
        ("add_generation_prompt", True),
        ("web_search", False),
        ("search_parameters", {"mode": "off"}),
        ("extra_body", {}),
        ("candidate_count", 1),
        ("json_mode", False),
        ("output_format", "text"),
        ("attachments", []),
        ("prefill", ""),
        ("nobodyKnowsThis", "x"),
    ],
)
def test_at_its_neutral_value_or_without_effect_it_is_accepted(name: str, value: Any) -> None:
    for sent in (value, None):
        assert chat_sampling(chat(**{name: sent})) == chat_sampling(chat())
        assert responses_sampling(responses(**{name: sent})) == responses_sampling(responses())


def spelled(name: str) -> set[str]:
    first, *rest = name.split("_")
    camel = first + "".join(map(str.title, rest))
    title = "-".join(map(str.title, (first, *rest)))
    squashed = name.replace("_", "")
    forms = {camel, title, title.replace("-", ""), name.replace("_", "-"), name.upper(), name.replace("_", " ")}
    return {*forms, squashed} - {name}


@pytest.mark.parametrize(
    ("model", "read"),
    [
        (ChatRequest, lambda sent: chat_sampling(chat(**sent))),
        (ResponsesRequest, lambda sent: responses_sampling(responses(**sent))),
    ],
)
@pytest.mark.parametrize("value", [0, False, "low", {"type": "json_object"}])
def test_another_spelling_of_a_field_is_refused_with_the_right_one(model: Any, read: Any, value: Any) -> None:
    exact = {
        *other_fields._CHAT,
        *other_fields._RESPONSES,
    }  # maxTokens is a name that other APIs have: a row of its own
    for name in (*model.model_fields, "enable_thinking", "chat_template_kwargs"):
        for form in spelled(name) - exact - {*model.model_fields}:
            with pytest.raises(BadRequestError) as caught:
                read({form: value})
            assert (caught.value.param, caught.value.status_code) == (form, 400)
            assert f"'{name}'" in caught.value.message
            assert f"'{name}'" in caught.value.message_zh
            read({form: None})


@pytest.mark.parametrize("option", sorted({each.alias or name for name, each in Hybrid.model_fields.items()}))
def test_an_option_of_our_own_outside_its_object_is_refused_with_its_place(option: str) -> None:
    for name in (option, *spelled(option)):
        for value in ("auto", "deep", 1, True):
            refused = refused_chat(**{name: value})
            assert refused.param == name
            assert f"'hybrid.{option}'" in refused.message


def test_openrouters_route_and_no_async_change_nothing() -> None:
    assert chat_sampling(chat(**{"route": "fallback", "async": False})) == chat_sampling(chat())


def test_many_and_long_unknown_names_are_not_looked_at_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(other_fields, "bare", lambda name: seen.append(name) or name)

    chat_sampling(chat(**{"aB" * 1_000_000: 1, **{f"unknown{i}": 1 for i in range(5000)}}))

    assert len(seen) <= 256
    assert max(map(len, seen)) <= 64
    assert refused_chat(**{f"unknown{i}": 1 for i in range(5000)}, stop_words=["x"]).param == "stop_words"


def test_what_chooses_among_likely_tokens_matters_to_sampling_only() -> None:
    chat_sampling(chat(top_k=40, min_p=0.1))
    chat_sampling(chat(top_k=40, temperature=0))
    assert refused_chat(top_k=40, temperature=0.7).param == "top_k"
    assert refused_chat(min_p=0.1, temperature=0.7).param == "min_p"


def test_penalties_go_to_the_engines_and_are_refused_by_name_out_of_their_range() -> None:
    penalties = {"frequency_penalty": 0.5, "presence_penalty": -1.5, "repetition_penalty": 1.1}

    for sampling in (chat_sampling(chat(**penalties)), responses_sampling(responses(**penalties))):
        assert {name: getattr(sampling, name) for name in penalties} == penalties
    neutral = dict.fromkeys(("frequency_penalty", "presence_penalty"), 0) | {"repetition_penalty": 1}
    assert chat_sampling(chat(**neutral)) == chat_sampling(chat())
    for name, value in (("frequency_penalty", 2.1), ("presence_penalty", "high"), ("repetition_penalty", 0)):
        with pytest.raises(ValidationError) as caught:
            chat(**{name: value})
        assert to_invalid(caught.value, {name: value}).param == name


def test_no_temperature_is_left_to_the_engine_whose_model_may_think() -> None:
    assert chat_sampling(chat()).temperature is None
    assert chat_sampling(chat(temperature=0)).temperature == 0
    assert responses_sampling(responses()).temperature is None


@pytest.mark.parametrize("fields", [{"top_p": 0}, {"top_k": 1}, {"top_p": 0.0, "top_k": 40}])
def test_only_the_likeliest_token_to_choose_from_is_greedy(fields: dict[str, Any]) -> None:
    assert chat_sampling(chat(temperature=1.5, **fields)).temperature == 0
    assert responses_sampling(responses(temperature=1.5, **fields)).temperature == 0


@pytest.mark.parametrize(
    ("name", "value"), [("max_output_tokens", 5), ("instructions", "x"), ("input", "x"), ("text", {"format": {}})]
)
def test_a_field_of_the_other_endpoint_is_refused_in_a_chat(name: str, value: Any) -> None:
    assert refused_chat(**{name: value}).param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tokens", 5), ("messages", [{}]), ("response_format", {"type": "json_object"}), ("stop", "x")],
)
def test_a_field_of_the_other_endpoint_is_refused_in_a_response(name: str, value: Any) -> None:
    with pytest.raises(BadRequestError) as caught:
        responses_sampling(responses(**{name: value}))

    assert caught.value.param == name


def test_functions_are_offered_unless_the_caller_wants_none_called() -> None:
    for read, make in ((chat_sampling, chat), (responses_sampling, responses)):
        tool = TOOL if make is chat else {"type": "function", **TOOL["function"]}
        assert read(make(tools=[tool], tool_choice="none")).tool_use is None
        use = read(make(tools=[tool])).tool_use
        assert use is not None
        assert ([each.name for each in use.tools], use.is_required, use.is_parallel) == (["get_weather"], False, True)
    chat_sampling(chat(functions=[{"name": "f"}], function_call="none"))
    assert refused_chat(functions=[{"name": "f"}]).param == "functions"


@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "max_tokens", "n", "stop", "seed", "stream", "hybrid", "tools"]
)
def test_null_is_a_field_that_was_not_sent(name: str) -> None:
    assert chat_sampling(chat(**{name: None})) == chat_sampling(chat())


def test_null_is_a_default_further_in_too() -> None:
    assert chat(stream_options={"include_usage": None}).stream_options == chat(stream_options={}).stream_options
    assert chat(hybrid={"route": None, "dial": None}).hybrid == chat().hybrid
    item = {"type": None, "role": "user", "content": "hi"}
    assert responses(input=[item]).input == responses(input=[{"role": "user", "content": "hi"}]).input


@pytest.mark.parametrize(
    "key", ["rout", "deadline", "max_wait", "Route", "async_", "draft_as", "", "最大等待", "k" * 500]
)
@pytest.mark.parametrize("read", [chat, responses])
def test_an_unknown_option_of_our_own_is_refused_with_the_known_ones(read: Any, key: str) -> None:
    hybrid = {"route": "fast", key: None}
    with pytest.raises(ValidationError) as caught:
        read(hybrid=hybrid)

    refused = to_invalid(caught.value, {"hybrid": hybrid})
    assert (refused.code, refused.param) == ("unknown_parameter", f"hybrid.{key[:64]}".rstrip("."))
    for known in (f"'{refused.param}'", "max_wait_s", "deadline_ms", "async,"):
        assert known in refused.message
        assert known in refused.message_zh


@pytest.mark.parametrize("tier", ["urgent", "Priority", "standard_only", "", 3])
@pytest.mark.parametrize("read", [chat, responses])
def test_an_unknown_tier_is_refused_with_the_known_ones(read: Any, tier: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        read(service_tier=tier)

    refused = to_invalid(caught.value, {"service_tier": tier})
    assert (refused.status_code, refused.param) == (400, "service_tier")
    for known in ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast"):
        assert read(service_tier=known).service_tier == known
        assert f"'{known}'" in refused.message


@pytest.mark.parametrize("value", [5, None, {}, True])
def test_what_may_be_several_things_is_refused_with_all_of_them(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        responses(input=value)
    refused = to_invalid(caught.value, {"input": value})
    assert (refused.param, refused.message) == ("input", "Invalid 'input': Input should be a string or an array.")
    assert refused.message_zh == "参数 'input' 无效：值必须是字符串或数组。"

    with pytest.raises(ValidationError) as caught:
        responses(input=[{"role": "user", "content": value}])
    assert "a string or an array" in to_invalid(caught.value, {}).message

    with pytest.raises(ValidationError) as caught:
        responses(input=["hello"])
    assert "Input should be an object" in to_invalid(caught.value, {}).message


# --- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wish"),
    [
        ({}, None),
        ({"reasoning_effort": None}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, True),
        ({"reasoning": {"summary": "auto"}}, None),
        ({"reasoning": {"enabled": False}}, False),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"enable_thinking": True}, True),
        ({"think": False}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": None}}, None),
        ({"chat_template_kwargs": {}}, None),
    ],
)
def test_every_way_of_asking_for_thinking_is_read(fields: dict[str, Any], wish: bool | None) -> None:
    assert to_thinking(chat(**fields), None) is wish
    assert to_thinking(responses(**fields), "glm") is wish


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"max_tokens": 500}}, "reasoning.max_tokens"),
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"think": "high"}, "think"),
        ({"chat_template_kwargs": {"custom": 1}}, "chat_template_kwargs.custom"),
    ],
)
def test_an_unknown_way_of_asking_for_it_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        to_thinking(chat(**fields), None)

    assert caught.value.param == param


def test_a_model_that_cannot_think_says_so() -> None:
    with pytest.raises(BadRequestError) as caught:
        to_thinking(chat(reasoning_effort="high"), "owl2")

    assert caught.value.param == "reasoning_effort"
    assert to_thinking(chat(reasoning_effort="none"), "owl2") is False


@pytest.mark.parametrize("effort", ["banana", 3, ["low"]])
def test_an_effort_that_nobody_knows_is_refused(effort: Any) -> None:
    with pytest.raises(ValidationError, match="reasoning_effort"):
        chat(reasoning_effort=effort)


def test_thinking_reaches_the_engine_and_is_noted_where_no_engine_can(http: httpx.Client, echoes: Any) -> None:
    fast = {**HELLO, "reasoning_effort": "high", "hybrid": {"route": "fast"}}
    deep = {**fast, "hybrid": {"route": "deep", "max_wait_s": 0}}

    assert http.post("/v1/chat/completions", json=fast).status_code == 200
    assert echoes["glm"].last_request.enable_thinking is True
    shown = http.post("/v1/chat/completions", json=deep).json()["hybrid"]

    assert any("思考" in note for note in shown["degraded"])


# --- formats of other servers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": None, "schema": SCHEMA}}},
        {"response_format": {"type": "text"}, "guided_json": SCHEMA},
    ],
)
def test_a_schema_is_kept_in_whichever_way_it_is_sent(fields: dict[str, Any]) -> None:
    wanted, text = to_chat_format(chat(**fields))

    assert wanted is not None
    assert wanted.type == "json_schema"
    assert json.loads(text or "") == SCHEMA


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_a_response_takes_it_with_either_type(kind: str) -> None:
    wanted, text = to_responses_format(responses(text={"format": {"type": kind, "schema": SCHEMA}}))

    assert wanted is not None
    assert json.loads(text or "") == SCHEMA


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "not json"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": {"type": "str"}}, "guided_json"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format.type"),
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "guided_json"),
    ],
)
def test_two_formats_or_none_that_can_be_kept_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        to_chat_format(chat(**fields))

    assert caught.value.param == param


# --- conversations ----------------------------------------------------------------------------------------------------


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("turns", "question"),
    [
        ([turn("system", "Say hello.")], "Say hello."),
        ([turn("developer", "Say hello.")], "Say hello."),
        ([turn("user", "a"), turn("assistant", "b"), turn("system", "现在说c")], "现在说c"),
        ([turn("user", "a"), turn("assistant", "")], "a"),
        ([turn("user", "a"), turn("assistant", None)], "a"),
        ([turn("user", "a"), turn("assistant", "One, two")], "Continue your last answer"),
        ([turn("user", "a"), turn("assistant", "一、二")], "接着写"),
        ([turn("assistant", "One, two")], "Continue your last answer"),
        (
            [turn("user", "a"), {"role": "assistant", "content": None, "refusal": "I can't."}, turn("user", "why?")],
            "why?",
        ),
        ([turn("user", "a"), turn("assistant", [{"type": "refusal", "refusal": "No."}]), turn("user", "b")], "b"),
    ],
)
def test_a_conversation_may_end_in_any_turn(http: httpx.Client, echoes: Any, turns: Any, question: str) -> None:
    body = {"model": "glowl", "messages": turns, "hybrid": {"route": "fast"}}

    assert http.post("/v1/chat/completions", json=body).status_code == 200
    asked = echoes["glm"].last_request.messages
    assert asked[-1].role == "user"
    assert question in asked[-1].text
    said = [each.text for each in asked if each.role == "assistant"]
    assert all(said)
    assert not any("refusal" in turns_ or "type" in str(turns_) for turns_ in turns) or said in (["I can't."], ["No."])


def test_reasoning_items_are_skipped_and_refusals_stay_text(http: httpx.Client, echoes: Any) -> None:
    refusal = {"type": "refusal", "refusal": "I cannot say."}
    items = [
        turn("user", "a"),
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "x"},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [refusal]},
        turn("user", "why?"),
    ]

    response = http.post("/v1/responses", json={"model": "glowl", "input": items, "hybrid": {"route": "fast"}})

    assert response.status_code == 200
    assert [each.text for each in echoes["glm"].last_request.messages] == ["a", "I cannot say.", "why?"]


@pytest.mark.parametrize("odd", [[], {}, 7, True, None, ["text"], {"text": "x"}, 1.5, "", "hologram"])
@pytest.mark.parametrize("place", ["chat part", "response part", "item", "format", "text format", "role"])
def test_an_odd_tag_is_a_400(http: httpx.Client, place: str, odd: Any) -> None:
    part = {"type": odd, "text": "x"}
    chats = {
        "chat part": {**HELLO, "messages": [turn("user", [part])]},
        "format": {**HELLO, "response_format": {"type": odd}},
        "role": {**HELLO, "messages": [{"role": odd, "content": "x"}]},
    }
    others = {
        "response part": {"model": "glowl", "input": [turn("user", [part])]},
        "item": {"model": "glowl", "input": [{"type": odd, "role": "user"}]},
        "text format": {"model": "glowl", "input": "x", "text": {"format": {"type": odd}}},
    }
    path = "/v1/chat/completions" if place in chats else "/v1/responses"

    response = http.post(path, json={**chats, **others}[place])

    assert response.status_code == 400
    assert response.json()["error"]["param"]
