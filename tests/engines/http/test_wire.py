"""The wire as pure functions: what is refused, how events are cut, what foreign servers' answers mean."""

import base64

import orjson
import pytest

from engines.base import (
    Alternative,
    ContextLengthError,
    Delta,
    EngineError,
    EngineInfo,
    EngineOverloadedError,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    TokenLogprob,
    TooManyImagesError,
    Usage,
)
from engines.http import answers, errors, models, requests, sse
from engines.json_schema import ANY_OBJECT, JsonSchemaError
from engines.token_costs import PUBLISHED

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def body(**fields: object) -> bytes:
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields)


def tool(name: str, parameters: object = None, **fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def called(arguments: str) -> bytes:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return body(
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "4"},
        ]
    )


NOT_KEPT = {"type": "object", "dependentRequired": {"a": ["b"]}}


def with_image_url(url: object) -> bytes:
    part = {"type": "image_url", "image_url": {"url": url}}
    return body(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}])


def test_a_bare_request_is_greedy_and_does_not_think():
    chat = requests.from_chat_body(body())

    assert chat.generation == GenerationRequest((Message("user", (TextPart("hi"),)),), SamplingParams())
    assert (chat.stream, chat.include_usage) == (False, False)


def test_the_newer_name_of_max_tokens_wins():
    chat = requests.from_chat_body(body(max_tokens=5, max_completion_tokens=7))

    assert chat.generation.sampling.max_tokens == 7


def test_a_strict_function_is_refused_for_what_cannot_be_guaranteed_and_any_other_is_not():
    with pytest.raises(JsonSchemaError) as caught:
        requests.from_chat_body(body(tools=[tool("f", NOT_KEPT, strict=True)]))

    assert caught.value.param == "tools[0].function.parameters"
    use = requests.from_chat_body(body(tools=[tool("f", NOT_KEPT)])).generation.sampling.tool_use
    assert use is not None
    assert orjson.loads(use.tools[0].parameters) == NOT_KEPT


def test_developer_is_system_and_empty_content_is_no_part():
    chat = requests.from_chat_body(
        body(
            messages=[
                {"role": "developer", "content": "be kind"},
                {"role": "assistant", "content": None},
                {"role": "user", "content": "hi"},
            ]
        )
    )

    assert [(message.role, message.text) for message in chat.generation.messages] == [
        ("system", "be kind"),
        ("assistant", ""),
        ("user", "hi"),
    ]


def test_what_changes_nothing_is_ignored():
    neutral = body(n=1, tools=[], logprobs=False, frequency_penalty=0, response_format={"type": "text"}, store=True)

    assert requests.from_chat_body(neutral) == requests.from_chat_body(body())


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        (b"{", None),
        (b"", None),
        (b"[]", None),
        (b'"\xff"', None),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', None),
        (orjson.dumps({"model": "m"}), "messages"),
        (body(messages=[]), "messages"),
        (body(messages="hi"), "messages"),
        (body(messages=[{"role": "wizard", "content": "hi"}]), "messages[0].role"),
        (body(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
        (body(messages=[{"role": "user", "content": [{"type": "file"}]}]), "messages[0].content[0]"),
        (body(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (with_image_url(5), "messages[0].content[1].image_url.url"),
        (body(messages=[{"role": "assistant", "content": "hi"}]), "messages"),
        (body(max_tokens=0), "max_tokens"),
        (body(max_tokens="5"), "max_tokens"),
        (body(temperature=3), "temperature"),
        (body(temperature="warm"), "temperature"),
        (body(top_p=0), "top_p"),
        (body(seed=1.5), "seed"),
        (body(stop=[""]), "stop[0]"),
        (body(stream="yes"), "stream"),
        (body(chat_template_kwargs={"enable_thinking": "yes"}), "chat_template_kwargs.enable_thinking"),
        (body(n=2), "n"),
        (body(tools=[{"type": "function"}]), "tools[0].function"),
        (body(tools=[{"type": "web_search"}]), "tools[0].type"),
        (body(tools=[tool("a b")]), "tools[0].function.name"),
        (body(tools=[tool("f"), tool("f")]), "tools"),
        (body(tools=[tool("f", {"type": "array"})]), "tools[0].function.parameters"),
        (body(tools=[tool("f")], tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
        (body(tools=[tool("f")], tool_choice="any"), "tool_choice"),
        (body(tool_choice="required"), "tool_choice"),
        (body(tools=[tool("f")], response_format={"type": "json_object"}), "response_format"),
        (called('["x"]'), "messages[1].tool_calls[0].function.arguments"),
        (body(logprobs=1), "logprobs"),
        (body(logprobs=True, top_logprobs=21), "top_logprobs"),
        (body(logprobs=True, top_logprobs=-1), "top_logprobs"),
        (body(logprobs=True, top_logprobs=True), "top_logprobs"),
        (body(top_logprobs=3), "top_logprobs"),
        (body(seed=2**63), "seed"),
        (body(user=5), "user"),
        (body(response_format={"type": "xml"}), "response_format.type"),
        (body(response_format={"type": "json_schema", "json_schema": {}}), "response_format.json_schema.schema"),
        (body(response_format={"type": "json_object"}, stop="}"), "stop"),
    ],
)
def test_a_wrong_body_is_refused_with_the_field_at_fault(bad, param):
    with pytest.raises(InvalidRequestError) as caught:
        requests.from_chat_body(bad)

    assert type(caught.value) is InvalidRequestError
    assert caught.value.param == param


@pytest.mark.parametrize("wanted", [{}, {"json_schema": {"schema": {"not": {}}}}])
def test_a_format_without_a_schema_that_can_be_kept_is_refused_by_name(wanted):
    with pytest.raises(JsonSchemaError) as caught:
        requests.from_chat_body(body(response_format={"type": "json_schema", **wanted}))

    error = errors.from_error(
        400, errors.to_error(caught.value.message, status_code=400, code=caught.value.code, param=caught.value.param)
    )
    assert (type(error), error.code, error.param) == (InvalidRequestError, "invalid_json_schema", "response_format")


def test_a_schema_travels_as_it_was_written_and_in_openais_shape():
    # Given a schema whose properties have an order
    schema = '{"type":"object","properties":{"z":{"type":"null"},"a":{"type":"string"}},"required":["z"]}'
    request = GenerationRequest((Message("user", (TextPart("hi"),)),), SamplingParams(json_schema=schema))

    # When it goes over the wire
    sent = b"".join(requests.to_chat_pieces(request, "m"))

    # Then another server finds OpenAI's own field, and ours the same text
    wanted = orjson.loads(sent)["response_format"]
    assert wanted == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": orjson.loads(schema), "strict": True},
    }
    assert requests.from_chat_body(sent).generation.sampling.json_schema == schema


def test_any_object_travels_as_json_object():
    request = GenerationRequest((Message("user", (TextPart("hi"),)),), SamplingParams(json_schema=ANY_OBJECT))

    sent = b"".join(requests.to_chat_pieces(request, "m"))

    assert orjson.loads(sent)["response_format"] == {"type": "json_object"}
    assert requests.from_chat_body(sent).generation.sampling.json_schema == ANY_OBJECT


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.com/cat.png", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("iVBORw0KGgo=", "invalid_image_url"),
        ("data:image/png,abc", "invalid_image_url"),
        ("data:text/plain,aGk=", "invalid_image_url"),
        ("data:base64,aGk=", "invalid_image_url"),
        ("data:image/png;base64", "invalid_image_url"),
        ("data:image/png;base64,abc", "invalid_base64_image"),
        ("data:image/png;base64,猫", "invalid_base64_image"),
        ("data:image/png;base64,aG k=", "invalid_base64_image"),
        ("data:image/png;base64,", "empty_image_file"),
    ],
)
def test_only_base64_data_urls_are_pictures(url, code):
    with pytest.raises(InvalidImageError) as caught:
        requests.from_chat_body(with_image_url(url))

    assert caught.value.code == code
    assert caught.value.param == "messages[0].content[1].image_url"


def test_a_picture_address_is_told_what_to_send_instead():
    with pytest.raises(InvalidImageError, match=r"fetches nothing.*data:image/png;base64"):
        requests.from_chat_body(with_image_url("http://example.com/cat.png"))


def test_a_data_url_may_be_written_in_capitals_and_with_parameters():
    image = requests.from_data_url("DATA:image/PNG;name=a.png;BASE64,aGk=", param="p")

    assert (image.data, image.media_type) == (b"hi", "image/png")


@pytest.mark.parametrize("label", ["image/jpeg", "image/jfif", "undefined", "text/plain", ""])
def test_the_bytes_of_a_picture_decide_its_type(label):
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()

    image = requests.from_data_url(f"data:{label};name=a.jpg;base64,{data}", param="messages[0].content[1].image_url")

    assert (image.media_type, image.param) == ("image/png", "messages[0].content[1].image_url")


def test_a_refused_picture_is_named_by_the_field_the_caller_sent_it_in():
    # Given pictures of which one says where it came from, behind an instruction that the caller did not write
    known, unknown = ImagePart(b"a", "image/png", "", param="input[0].content[1]"), ImagePart(b"b", "image/png", "")
    messages = (Message("system", (TextPart("?"),)), Message("user", (TextPart("?"), known, unknown)))

    assert requests.param_of_caller("messages[1].content[1].image_url", messages) == "input[0].content[1]"
    for param in ("messages[1].content[2].image_url", "messages[1].content[0]", "messages[9].content[1]"):
        assert requests.param_of_caller(param, messages) is None
    assert requests.param_of_caller("messages[1]", messages) == "messages[1]"


def test_text_that_is_no_unicode_is_refused_before_it_is_sent():
    request = GenerationRequest((Message("user", (TextPart("\ud83d"),)),))

    with pytest.raises(InvalidRequestError):
        requests.to_chat_pieces(request, "m")


# --- server-sent events ---------------------------------------------------------------------------------------------

EVENTS = (
    ': ping\r\n\r\ndata: {"猫": 1}\r\n\r\nevent: x\nid: 7\ndata:two\ndata: lines\n\ndata: last\r\rdata: never ended\n'
)
PAYLOADS = ['{"猫": 1}'.encode(), b"two\nlines", b"last"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_events_are_the_same_however_the_bytes_are_split(size):
    parser = sse.EventParser()
    raw = EVENTS.encode()

    payloads = [payload for start in range(0, len(raw), size) for payload in parser.feed(raw[start : start + size])]

    assert payloads == PAYLOADS


def test_a_delta_survives_the_wire():
    head = answers.CompletionHead("chatcmpl-1", 0, "m", include_usage=True)
    usage = Usage(prompt_tokens=9, completion_tokens=4, image_tokens=3, cached_tokens=2, reasoning_tokens=1)
    parser = sse.EventParser()

    *payloads, done = parser.feed(
        answers.to_first_event(head)
        + answers.to_events(Delta(text="猫", reasoning="hm"), head)
        + answers.to_events(Delta(finish_reason="length", usage=usage), head)
    )

    assert done == sse.DONE
    assert [answers.from_event(payload) for payload in payloads] == [
        Delta(),
        Delta(text="猫", reasoning="hm"),
        Delta(finish_reason="length"),
        Delta(usage=usage),
    ]


@pytest.mark.parametrize(
    ("fields", "top_logprobs"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_log_probabilities_are_as_many_as_asked_for(fields, top_logprobs):
    assert requests.from_chat_body(body(**fields)).generation.sampling.top_logprobs == top_logprobs


def test_a_body_with_a_million_errors_is_refused_for_its_first():
    with pytest.raises(InvalidRequestError) as caught:
        requests.from_chat_body(body(messages=[1] * 1_000_000))

    assert caught.value.param == "messages[0]"
    assert caught.value.__cause__.error_count() == 1


def test_log_probabilities_survive_the_wire_parts_of_characters_and_impossible_tokens_too():
    # Given a character that spans two tokens
    head = answers.CompletionHead("chatcmpl-1", 0, "m")
    whole = "猫".encode()
    alternative = Alternative("\ufffd", float("-inf"), whole[2:])
    tokens = (TokenLogprob("\ufffd", -0.5, whole[:2], (alternative,)), TokenLogprob("\ufffd", -0.25, whole[2:]))

    (payload,) = sse.EventParser().feed(answers.to_events(Delta(text="猫", logprobs=tokens), head))

    least = Alternative("\ufffd", -9999.0, whole[2:])
    assert answers.from_event(payload).logprobs == (TokenLogprob("\ufffd", -0.5, whole[:2], (least,)), tokens[1])


def test_log_probabilities_without_text_are_an_event_of_their_own():
    head = answers.CompletionHead("chatcmpl-1", 0, "m")
    token = TokenLogprob("\ufffd", -0.5, b"\xe7")

    first, second, done = sse.EventParser().feed(
        answers.to_events(Delta(finish_reason="stop", logprobs=(token,)), head)
    )

    assert answers.from_event(first) == Delta(logprobs=(token,))
    assert answers.from_event(second) == Delta(finish_reason="stop")
    assert done == sse.DONE


def test_foreign_log_probabilities_may_lack_bytes_and_alternatives():
    entry = {"token": "é", "logprob": None, "bytes": None, "top_logprobs": [{"token": "e", "logprob": -1}]}
    chunk = {"choices": [{"delta": {"content": "é"}, "logprobs": {"content": [entry, {"token": "x", "logprob": 0}]}}]}

    assert answers.from_event(orjson.dumps(chunk)).logprobs == (
        TokenLogprob("é", -9999.0, "é".encode(), (Alternative("e", -1.0, b"e"),)),
        TokenLogprob("x", 0.0, b"x"),
    )


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}, {"content": None, "refusal": None}])
def test_a_foreign_chunk_may_have_no_log_probabilities(logprobs):
    chunk = {"choices": [{"delta": {"content": "a"}, "logprobs": logprobs}]}

    assert answers.from_event(orjson.dumps(chunk)) == Delta(text="a")


@pytest.mark.parametrize("content", [5, [5], [{}], [{"token": "a", "logprob": "b"}], [{"token": "a", "bytes": 10**12}]])
def test_log_probabilities_of_an_unknown_shape_fail_the_generation(content):
    chunk = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": content}}]}

    with pytest.raises(GenerationFailedError):
        answers.from_event(orjson.dumps(chunk))


def test_a_foreign_chunk_may_bring_text_and_finish_reason_together_and_its_own_name_for_reasoning():
    chunk = {"choices": [{"delta": {"content": "a", "reasoning": "b"}, "finish_reason": "stop"}], "usage": None}

    assert answers.from_event(orjson.dumps(chunk)) == Delta(text="a", reasoning="b", finish_reason="stop")


def test_foreign_usage_may_lack_its_details():
    chunk = {
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "prompt_tokens_details": None},
    }

    assert answers.from_event(orjson.dumps(chunk)).usage == Usage(prompt_tokens=5, completion_tokens=2)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"id": "x", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}',
        b'{"choices": null, "usage": {"prompt_tokens": 5, "completion_tokens": 2.0, "total_tokens": "?"}}',
        b'{"choices": {}, "usage": {"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": null}}',
    ],
)
def test_token_counts_may_come_without_choices(payload):
    assert answers.from_event(payload) == Delta(usage=Usage(prompt_tokens=5, completion_tokens=2))


@pytest.mark.parametrize(
    "payload", [b"{}", b'{"choices": [{}]}', b'{"choices": [{"delta": null}]}', b'{"error": null}']
)
def test_an_event_that_says_nothing_is_no_fault(payload):
    assert answers.from_event(payload) == Delta()


def test_an_event_without_data_is_none():
    assert sse.EventParser().feed(b'data:\n\ndata: \n\ndata\n\nevent: x\n\ndata: {"a": 1}\n\n') == [b'{"a": 1}']


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "你"}, {"type": "text", "text": "好"}], "你好"),
        (["你", "好"], "你好"),
        ([], ""),
        ([{"type": "text", "text": None}], ""),
        (None, ""),
    ],
)
def test_text_may_come_as_a_list_of_parts(content, text):
    for field in ("content", "reasoning_content"):
        delta = answers.from_event(orjson.dumps({"choices": [{"delta": {field: content}}]}))
        assert (delta.text or delta.reasoning) == text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        *(
            (body, "status 400 and no reason")
            for body in (b'{"error":5}', b'{"error":true}', b"5", b"null", b'"42"', b'{"error":{"message":0.5}}')
        ),
        (b'{"error":{"message":"","detail":"too hot"}}', "too hot"),
        (b'{"detail":[{"loc":["x"]}]}', "loc"),
        ('{"error":"太长了"}'.encode(), "太长了"),
    ],
)
def test_a_refusal_says_words_or_that_it_has_none(body, says):
    assert says in errors.from_error(400, body).message


RUBBISH = [
    b"<html>",
    b"[]",
    b"5",
    b'{"choices": 5}',
    b'{"choices": [5]}',
    b"\xff",
    b'{"choices": [{"delta": {"content": 5}}]}',
    b'{"choices": [{"delta": {"content": {"text": "a"}}}]}',
    b'{"choices": [{"delta": {"content": [{"text": ["a"]}, 3]}}]}',
    b'{"choices": [{"delta": {"content": "\\ud83d"}}]}',
    b'{"choices": [{"delta": {"content": "\xed\xa0\xbd"}}]}',
    b'{"choices": [{"delta": "a"}]}',
    b'{"choices": [{"delta": {}, "logprobs": {"content": [{"token": "a", "logprob": "many"}]}}]}',
    *(
        b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": %b}}' % number
        for number in (b'"many"', b"-1", b"1.5", b"1e300", b"true", b"[3]", b"99999999999999999999")
    ),
    b'{"choices": [], "usage": "many"}',
    b'{"choices": [], "usage": {"completion_tokens_details": 7, "prompt_tokens": 1}}',
]


@pytest.mark.parametrize("payload", RUBBISH)
def test_an_event_that_is_no_chunk_fails_the_generation(payload):
    with pytest.raises(GenerationFailedError):
        answers.from_event(payload)


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (None, None),
        ("", None),
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("repetition", "length"),
        ("content_filter", "content_filter"),
        ("sensitive", "content_filter"),
        ("safety", "content_filter"),
    ],
)
def test_a_known_end_of_a_foreign_answer_is_told_in_our_words(foreign, ours):
    assert (
        answers.from_event(orjson.dumps({"choices": [{"delta": {}, "finish_reason": foreign}]})).finish_reason == ours
    )


@pytest.mark.parametrize(
    "foreign",
    [
        "abort",
        "error",
        "network_error",
        "cancelled",
        "unheard_of",
        " ",
        0,
        3,
        ["stop"],
        {},
    ],
)
def test_an_end_that_is_not_known_to_be_good_is_a_failure(foreign):
    with pytest.raises(GenerationFailedError):
        answers.from_event(orjson.dumps({"choices": [{"delta": {"content": "a"}, "finish_reason": foreign}]}))


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "m", "code": 500}},
        {"object": "error", "message": "m", "type": "x", "code": 500},
        {"message": "m", "code": 500},
        {"detail": "m"},
    ],
)
def test_a_failure_in_any_form_is_not_taken_for_an_event_without_choices(event):
    with pytest.raises(GenerationFailedError, match="m"):
        answers.from_event(orjson.dumps(event))


@pytest.mark.parametrize("size", [1, 2, 4096])
def test_a_byte_order_mark_before_the_first_event_is_none_of_it(size):
    parser, raw = sse.EventParser(), b"\xef\xbb\xbfdata: 1\n\ndata: \xef\xbb\xbf2\n\n"
    payloads = [payload for start in range(0, len(raw), size) for payload in parser.feed(raw[start : start + size])]
    assert payloads == [b"1", b"\xef\xbb\xbf2"]


@pytest.mark.parametrize("key", ["sk-livekey123456", "Bearer abc.def", "hf_abcdefghij", "sk-proj-a1_b2-c3d4"])
def test_what_a_server_says_loses_its_keys(key):
    refusal = errors.from_error(401, orjson.dumps({"error": {"message": f"Incorrect key: {key}, ask again"}}))
    assert refusal.message.replace(",", "") == "Incorrect key: (key) ask again"


def test_a_done_with_blanks_around_it_is_done():
    assert sse.EventParser().feed(b"data:  [DONE] \n\n") == [sse.DONE]


@pytest.mark.parametrize(
    "raw",
    [
        b'event: error\ndata: {"detail_message": "too hot"}\n\n',
        b"event:error\ndata: too hot\n\n",
        b'event: error\ndata: {"error": {"message": "too hot"}}\n\n',
        b'data: {"code": 1301, "msg": "too hot"}\n\n',
        b'data: {"message": "too hot"}\n\n',
        b'data: {"status": "failed", "message": "too hot", "choices": [{"delta": {"content": "a"}}]}\n\n',
    ],
)
def test_a_failure_is_told_from_an_event_however_it_is_written(raw):
    (payload,) = sse.EventParser().feed(raw)
    with pytest.raises(GenerationFailedError, match="too hot"):
        answers.from_event(payload)


def test_of_several_answers_the_first_is_read():
    def delta(*choices):
        return answers.from_event(
            orjson.dumps({"choices": [{"index": i, "delta": {"content": t}} for i, t in choices]})
        )

    assert [delta((1, "b")).text, delta((1, "b"), (0, "a")).text, delta((0, "a")).text] == ["", "a", "a"]


def test_parts_of_reasoning_are_no_text():
    parts = [{"type": "reasoning", "text": "plan"}, {"type": "text", "text": "Red"}]
    assert answers.from_event(orjson.dumps({"choices": [{"delta": {"content": parts}}]})) == Delta("Red", "plan")


@pytest.mark.parametrize("size", [7, 4096])
@pytest.mark.parametrize("data", [b"data: " + b"x" * 100_000, b": " + b"x" * 100_000, b"data: xxxxxxx\n" * 10_000])
def test_an_event_without_end_fails_the_generation_before_it_fills_the_memory(data, size):
    parser = sse.EventParser(max_bytes=50_000)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]

    with pytest.raises(GenerationFailedError, match="50000 bytes"):
        list(map(parser.feed, pieces))


def test_many_small_events_are_no_large_one():
    parser = sse.EventParser(max_bytes=50)

    assert len(parser.feed(b"data: 0123456789\n\n" * 100)) == 100


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8101/v1",
        "unix:///run/glowl/glm.sock",
        "10.0.0.7:8000",
        "('127.0.0.1', 8101)",
        "[::1]:8101",
        "glm-0.internal:8000",
        "/opt/models/glm/model-00001.safetensors",
    ],
)
def test_what_a_server_says_loses_its_addresses(address):
    refusal = errors.from_error(502, orjson.dumps({"error": {"message": f"no route to {address} at 12:30"}}))

    assert refusal.message.startswith("no route to ")
    assert refusal.message.endswith(" at 12:30")
    for part in ("127.0.0.1", "10.0.0.7", "::1", "internal", "glm", "8101", "8000"):
        assert part not in refusal.message


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (400, b'{"error": {"message": "no", "code": 400}}', InvalidRequestError),
        (
            400,
            b'{"object": "error", "message": "At most 1 image(s) may be provided in one request."}',
            TooManyImagesError,
        ),
        (400, b'{"error": {"message": "This model\'s maximum context length is 9 tokens."}}', ContextLengthError),
        (400, b'{"error": {"message": "?", "code": "unsupported_image_media_type"}}', InvalidImageError),
        (401, b'{"error": "Unauthorized"}', EngineUnavailableError),
        (404, b'{"error": {"message": "The model `x` does not exist.", "code": 404}}', EngineUnavailableError),
        (408, b"", EngineTimeoutError),
        (413, b"", InvalidRequestError),
        (422, b'{"detail": []}', InvalidRequestError),
        (429, b"slow down", EngineOverloadedError),
        (500, b"Internal Server Error", GenerationFailedError),
        (502, b"<html>", EngineUnavailableError),
        (503, b"null", EngineUnavailableError),
        (504, b"[]", EngineTimeoutError),
        (None, b'{"error": {"message": "no", "code": 400}}', InvalidRequestError),
        (None, b'{"error": {"message": "no", "code": null}}', GenerationFailedError),
    ],
)
def test_a_foreign_refusal_finds_its_class(status, answer, kind):
    error = errors.from_error(status, answer)

    assert type(error) is kind
    assert error.message


def test_a_refusal_in_the_middle_of_a_stream_stays_one_that_nobody_repeats():
    # Given a schema that turned out to be too complex only behind the thinking
    refusal = JsonSchemaError("The JSON Schema's 'pattern' is too complex.")
    (payload,) = sse.EventParser().feed(errors.to_error_event(refusal))

    with pytest.raises(InvalidRequestError, match="'pattern'") as raised:
        answers.from_event(payload)

    assert (raised.value.code, raised.value.param) == ("invalid_json_schema", "response_format")
    assert (raised.value.status_code, raised.value.retryable) == (400, False)


def test_a_lack_of_memory_in_the_middle_of_a_stream_stays_one():
    (payload,) = sse.EventParser().feed(errors.to_error_event(EngineOverloadedError("busy", code="out_of_memory")))

    with pytest.raises(EngineOverloadedError, match="busy") as raised:
        answers.from_event(payload)

    assert raised.value.code == "out_of_memory"


def test_an_error_event_raises_what_it_carries():
    (payload,) = sse.EventParser().feed(errors.to_error_event(EngineOverloadedError("busy", param="p")))

    with pytest.raises(EngineError) as caught:
        answers.from_event(payload)

    assert type(caught.value) is EngineOverloadedError
    assert caught.value.param == "p"


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["full", "pocket", "random-tiny", "echo"])
def test_an_engine_describes_itself_over_the_wire(variant):
    info = EngineInfo(
        "owl2", "mplug-owl2", variant, context_tokens=2048, max_images=4, revision="0a1b", costs=PUBLISHED["owl2"]
    )

    assert models.from_models(models.to_models(info, created=0)) == info


def test_adapters_come_with_the_revisions_of_their_weights():
    info = EngineInfo("glm", "glm-4.6v-flash", "full", 2048, 4, ("tags", "labels"), "0a1b", None, ("11", "22"))
    plain = EngineInfo("glm", "glm-4.6v-flash", "full", 2048, 4, ("tags", "labels"), "0a1b")
    entries = [{"id": "m", "root": "/models/m"}, {"id": "tags", "parent": "m", "root": "/adapters/tags"}]

    assert models.from_models(models.to_models(info, created=0)) == info
    assert models.from_models(models.to_models(plain, created=0)) == plain
    assert (info.revision_with("labels"), plain.revision_with("labels"), info.revision_with("")) == (
        "22",
        "0a1b",
        "0a1b",
    )
    foreign = models.from_models(orjson.dumps({"data": entries}), "m")
    assert (foreign.revision, foreign.revision_with("tags")) == ("/models/m", "/adapters/tags")


def test_a_foreign_server_is_the_full_model_with_the_context_it_tells():
    answer = orjson.dumps({"data": [{"id": "a"}, {"id": "zai-org/GLM-4.6V-Flash", "max_model_len": 4096}]})

    info = models.from_models(answer, "zai-org/GLM-4.6V-Flash")

    assert (info.model_id, info.variant, info.context_tokens) == ("zai-org/GLM-4.6V-Flash", "full", 4096)


@pytest.mark.parametrize(("root", "revision"), [("/models/glm-2", "/models/glm-2"), (None, ""), (7, "")])
def test_what_a_foreign_server_loaded_is_its_revision(root, revision):
    answer = orjson.dumps({"data": [{"id": "m", "root": root}]})

    assert models.from_models(answer, "m").revision == revision


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"id": "other"}]}',
        b'{"data": [{"id": "m", "glowl": {"engine": "glm"}}]}',
        b'{"data": [{"id": "m", "glowl": {"engine": "g", "variant": "huge", "context_tokens": 1, "max_images": 1}}]}',
    ],
)
def test_an_answer_that_is_no_model_list_means_there_is_no_engine(answer):
    with pytest.raises(EngineUnavailableError):
        models.from_models(answer, "m")


def test_how_tokens_are_chosen_comes_over_whole_and_what_is_open_stays_open() -> None:
    for sampling in (
        SamplingParams(temperature=None),
        SamplingParams(temperature=0.0),
        SamplingParams(
            temperature=0.7, top_k=5, frequency_penalty=0.5, presence_penalty=-1.0, repetition_penalty=1.1, seed=3
        ),
    ):
        request = GenerationRequest((Message("user", (TextPart("hi"),)),), sampling, enable_thinking=True)
        assert (
            requests.from_chat_body(b"".join(requests.to_chat_pieces(request, "glm"))).generation.sampling == sampling
        )
    for name, value in (("frequency_penalty", 3), ("repetition_penalty", 0), ("top_k", -2)):
        with pytest.raises(InvalidRequestError) as caught:
            requests.from_chat_body(body(**{name: value}))
        assert caught.value.param == name


def test_another_server_is_greedy_where_nothing_is_said_unless_its_model_thinks() -> None:
    def sent(sampling: SamplingParams, *, enable_thinking: bool) -> dict[str, object]:
        request = GenerationRequest((Message("user", (TextPart("hi"),)),), sampling, enable_thinking=enable_thinking)
        fields = orjson.loads(b"".join(requests.to_chat_pieces(request, "glm", is_foreign=True)))
        return {name: fields[name] for name in ("temperature", "top_p", "seed") if name in fields}

    nothing = SamplingParams(temperature=None)
    assert sent(nothing, enable_thinking=False) == {"temperature": 0.0, "top_p": 1.0}
    # Then its checkpoint's own values count, and the same question has the same answer
    assert sent(nothing, enable_thinking=True) == {"seed": 0}
    assert sent(SamplingParams(temperature=0.0), enable_thinking=True) == {"temperature": 0.0, "top_p": 1.0}
    assert sent(SamplingParams(temperature=None, top_p=0.5, seed=4), enable_thinking=True) == {"top_p": 0.5, "seed": 4}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"not json", "expected ident at line 1 column 2"),
        (b'{"a":', "EOF while parsing a value at line 1 column 5"),
        (b"\xff", "expected value at line 1 column 1"),
    ],
)
def test_a_body_that_is_no_json_is_refused_with_the_place_and_the_reason(text, why):
    with pytest.raises(InvalidRequestError) as caught:
        requests.from_chat_body(text)

    assert caught.value.message == f"The body is not valid JSON: {why}."
    assert caught.value.code == "invalid_json"
