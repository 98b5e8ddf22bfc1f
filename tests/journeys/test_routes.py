"""Where questions go and what comes back: the product's promise, through the unmodified openai client."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from tests.journeys.conftest import Stack, picture

pytestmark = pytest.mark.e2e

# No engine or worker goes away here: a busy machine must not look like one that did.
LEASE_S = DRAFT_PATIENCE_S = 300.0

ZH_PICTURE = [
    {"type": "image_url", "image_url": {"url": picture("red")}},
    {"type": "text", "text": "图里有什么？"},
]
EN_TWO_PICTURES = [
    {"type": "input_image", "image_url": picture("red")},
    {"type": "input_image", "image_url": picture("blue")},
    {"type": "input_text", "text": "Which picture has more red circles?"},
]


def hybrid(answer: Any) -> dict[str, Any]:
    extra: dict[str, Any] = answer.model_extra["hybrid"]
    return extra


def test_a_chinese_question_about_a_picture_is_answered_at_once_by_glm(stack: Stack) -> None:
    completion = stack.client.chat.completions.create(model="glowl", messages=[{"role": "user", "content": ZH_PICTURE}])

    assert completion.choices[0].message.content == "[echo glm] 1 picture (64x48 png), question: 图里有什么？"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "glm-4.6v-flash-echo"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens > 0
    assert hybrid(completion)["route"] == "fast"
    assert hybrid(completion)["rule"] == "chinese"


def test_an_english_question_goes_deep_and_keeps_the_draft_beside_the_answer(stack: Stack) -> None:
    response = stack.client.responses.create(model="glowl", input="What colour is the owl?")

    assert response.status == "completed"
    assert response.output_text == "[echo owl2] no pictures, question: What colour is the owl?"
    assert response.model == "mplug-owl2-echo"
    extra = hybrid(response)
    assert extra["route"] == "deep"
    assert extra["rule"] == "english"
    assert extra["draft"]["text"] == "[echo glm] no pictures, question: What colour is the owl?"
    assert 0 < extra["agreement"] <= 1


def test_two_pictures_in_the_background_are_queued_polled_and_merged(stack: Stack) -> None:
    stack.wait_for_health(
        glm="up", owl2="up"
    )  # an engine that a busy machine kept from saying so is asked for no draft
    queued = stack.client.responses.create(
        model="glowl", background=True, input=[{"role": "user", "content": EN_TWO_PICTURES}]
    )
    assert queued.status == "queued"
    assert queued.output_text == ""

    done = stack.wait_for(queued.id, "completed")

    assert done.output_text.startswith("[echo owl2] 2 pictures")
    assert hybrid(done)["rule"] == "several-pictures"
    # A draft that came after Owl2's first word is beside the answer, and no item before it
    assert done.output[-1].type == "message"
    assert hybrid(done)["draft"]["text"].startswith("[echo glm] 2 pictures")
    assert done.usage.input_tokens > 0


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_two_pictures_over_anthropics_messages_wait_for_the_deep_answer(stack: Stack, *, is_streamed: bool) -> None:
    pictures = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}}
        for url in (picture("red"), picture("blue"))
    ]
    content = [*pictures, {"type": "text", "text": "Which picture has more red circles?"}]
    asked: Any = {"model": "glowl", "max_tokens": 256, "messages": [{"role": "user", "content": content}]}
    asked["thinking"] = {"type": "adaptive"}

    with anthropic.Anthropic(base_url=stack.api.url, api_key="unused", max_retries=0, timeout=600) as client:
        if is_streamed:
            with client.messages.stream(**asked) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(**asked)

    *before, text = message.content
    assert text.text.startswith("[echo owl2] 2 pictures (64x48 png, 64x48 png), question: Which")
    assert (message.stop_reason, message.model) == ("end_turn", "mplug-owl2-echo")
    assert hybrid(message)["rule"] == "several-pictures"
    if not is_streamed:  # a stream has as much of the draft as there was before the answer's first word
        assert hybrid(message)["draft"]["text"].startswith("[echo glm] 2 pictures")
        assert hybrid(message)["draft"]["text"] in before[0].thinking
    assert all(block.type == "thinking" and block.signature for block in before)


def test_two_chinese_pictures_are_composed_by_glm_from_both_answers(stack: Stack) -> None:
    content = [*EN_TWO_PICTURES[:2], {"type": "input_text", "text": "哪张图更红？"}]

    response = stack.client.responses.create(model="glowl", input=[{"role": "user", "content": content}])

    assert hybrid(response)["merge"] == "compose"
    assert hybrid(response)["engine"] == "glm"
    assert response.output_text.startswith("[echo glm] 2 pictures")
    # GLM was given both answers to write the final one from.
    assert "[echo owl2] 2 pictures" in response.output_text


@pytest.mark.parametrize(
    ("text", "route", "engine"), [("What colour is the owl?", "fast", "glm"), ("这是什么？", "deep", "owl2")]
)
def test_the_caller_may_override_the_route_both_ways(stack: Stack, text: str, route: str, engine: str) -> None:
    response = stack.client.responses.create(
        model="glowl", input=text, extra_body={"hybrid": {"route": route, "merge": "deep"}}
    )

    assert hybrid(response)["route"] == route
    assert response.output_text.startswith(f"[echo {engine}]")


@pytest.mark.parametrize(
    ("model", "text", "engine"),
    [("glm-4.6v-flash", "What colour is the owl?", "glm"), ("mplug-owl2", "这是什么？", "owl2")],
)
def test_the_model_name_picks_one_engine_alone(stack: Stack, model: str, text: str, engine: str) -> None:
    response = stack.client.responses.create(model=model, input=text)

    assert response.output_text.startswith(f"[echo {engine}]")
    assert [branch["engine"] for branch in hybrid(response)["branches"]] == [engine]
    assert "draft" not in hybrid(response)


def test_the_fast_stream_is_the_answer_piece_by_piece(stack: Stack) -> None:
    chunks = list(
        stack.client.chat.completions.create(
            model="glowl",
            messages=[{"role": "user", "content": "你好"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "[echo glm] no pictures, question: 你好"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_deep_chat_stream_ends_with_the_deep_answer(stack: Stack) -> None:
    chunks = list(
        stack.client.chat.completions.create(
            model="glowl", messages=[{"role": "user", "content": "What colour is the owl?"}], stream=True
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "[echo owl2] no pictures, question: What colour is the owl?"
    assert hybrid(chunks[-1])["stage"] == "final"


def test_the_response_stream_has_draft_then_final_and_agrees_with_the_poll(stack: Stack) -> None:
    with stack.client.responses.stream(model="glowl", input="What colour is the owl?") as stream:
        events = list(stream)
        final = stream.get_final_response()

    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    numbers = [event.sequence_number for event in events if hasattr(event, "sequence_number")]
    assert numbers == sorted(set(numbers))
    *drafts, done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.item.type for event in drafts] == ["reasoning"] * len(drafts)
    assert done.item.phase == "final_answer"
    polled = stack.client.responses.retrieve(final.id)
    assert done.item.content[0].text == final.output_text == polled.output_text
    shown = [(item.id, item.to_dict()) for item in polled.output]
    assert shown == [(event.item.id, event.item.to_dict()) for event in (*drafts, done)]
    assert [event.output_index for event in (*drafts, done)] == list(range(len(shown)))


def test_a_finished_stream_can_be_read_again_from_any_point(stack: Stack) -> None:
    response = stack.client.responses.create(model="glowl", input="What colour is the owl?", background=True)
    stack.wait_for(response.id, "completed")

    whole = list(stack.client.responses.retrieve(response.id, stream=True))
    rest = list(stack.client.responses.retrieve(response.id, stream=True, starting_after=whole[4].sequence_number))

    assert [event.sequence_number for event in rest] == [event.sequence_number for event in whole[5:]]
    assert rest[-1].to_dict() == whole[-1].to_dict()


def test_a_conversation_goes_on_from_an_earlier_response(stack: Stack) -> None:
    first = stack.client.responses.create(model="glowl", input=[{"role": "user", "content": EN_TWO_PICTURES}])

    second = stack.client.responses.create(model="glowl", input="And which is darker?", previous_response_id=first.id)

    assert second.output_text == "[echo owl2] 2 pictures (64x48 png, 64x48 png), question: And which is darker?"
    assert second.previous_response_id == first.id
    third = stack.client.responses.create(model="glowl", input="Why?", previous_response_id=second.id)
    items = stack.client.responses.input_items.list(third.id, order="asc")
    turns = [(item.role, item.content[0].type) for item in items]
    assert turns == [("user", "input_image"), *[("assistant", "output_text"), ("user", "input_text")] * 2]


def joined(logprobs: Any) -> str:
    return b"".join(bytes(entry.bytes) for entry in logprobs).decode()


def test_a_deep_chat_has_log_probabilities_when_asked_whole_and_streamed(stack: Stack) -> None:
    asked: Any = {"model": "glowl", "messages": [{"role": "user", "content": "What colour is the owl?"}]}

    whole = stack.client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
    chunks = list(stack.client.chat.completions.create(**asked, logprobs=True, stream=True))

    assert joined(whole.choices[0].logprobs.content) == whole.choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    streamed = [entry for chunk in chunks if (piece := chunk.choices[0].logprobs) for entry in piece.content]
    assert joined(streamed) == whole.choices[0].message.content
    assert stack.engines["owl2"].last_request is not None
    assert stack.engines["owl2"].last_request.caller == "local"


@pytest.mark.parametrize(("text", "writer"), [("What colour is the owl?", "owl2"), ("这是什么？", "glm")])
def test_a_deep_response_has_the_log_probabilities_of_whoever_wrote_it(stack: Stack, text: str, writer: str) -> None:
    asked: Any = {"model": "glowl", "input": text, "top_logprobs": 2, "extra_body": {"hybrid": {"route": "deep"}}}

    whole = stack.client.responses.create(**asked)
    with stack.client.responses.stream(**asked) as stream:
        events: list[Any] = list(stream)

    done = [event for event in events if event.type == "response.output_text.done"]
    for part in (whole.output[-1].content[0], events[-1].response.output[-1].content[0], done[-1]):
        assert part.text.startswith(f"[echo {writer}]")
        assert joined(part.logprobs) == part.text


def test_a_chat_that_would_wait_too_long_gets_the_draft_and_where_the_rest_will_be(stack: Stack) -> None:
    stack.engines["owl2"].delta_delay_s = 0.2

    completion = stack.client.chat.completions.create(
        model="glowl",
        messages=[{"role": "user", "content": "What colour is the owl?"}],
        extra_body={"hybrid": {"max_wait_s": 0}},
    )

    assert completion.choices[0].message.content == "[echo glm] no pictures, question: What colour is the owl?"
    assert hybrid(completion)["stage"] == "draft"
    final = stack.wait_for(hybrid(completion)["response_id"], "completed")
    assert final.output_text.startswith("[echo owl2]")


def test_models_are_listed_with_the_variant_in_their_name(stack: Stack) -> None:
    listed = [model.id for model in stack.client.models.list().data]

    assert listed == ["glowl", "glm-4.6v-flash-echo", "mplug-owl2-echo"]
    assert stack.client.models.retrieve("mplug-owl2-echo").id == "mplug-owl2-echo"


def test_the_route_can_be_asked_for_without_an_answer(stack: Stack) -> None:
    with stack.http as http:
        body = {"model": "glowl", "messages": [{"role": "user", "content": "What colour is the owl?"}]}
        english = http.post("/v1/route", json=body).json()
        chinese = http.post("/v1/route", json=body, headers={"accept-language": "zh-CN"}).json()

    assert english["route"] == "deep"
    assert english["rule"] == "english"
    assert english["reasons"][0]["value"] == "en"
    assert english["explanation"] != chinese["explanation"]
    assert stack.engines["owl2"].num_running == 0


def test_a_job_shows_its_units_and_what_they_cost(stack: Stack) -> None:
    response = stack.client.responses.create(model="glowl", input="What colour is the owl?")

    with stack.http as http:
        job = http.get(f"/v1/jobs/{response.id}").json()

    assert job["status"] == "completed"
    assert [(unit["name"], unit["status"], unit["runs"]) for unit in job["units"]] == [
        ("draft", "completed", 1),
        ("deep", "completed", 1),
        ("merge", "completed", 1),
    ]


def test_an_unknown_response_is_a_404_of_openai_shape(stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        stack.client.responses.retrieve("resp_nothing")

    assert caught.value.code == "response_not_found"
    assert caught.value.param == "response_id"


def test_a_deleted_response_is_gone(stack: Stack) -> None:
    response = stack.client.responses.create(model="glowl", input="你好")

    stack.client.responses.delete(response.id)

    with pytest.raises(openai.NotFoundError):
        stack.client.responses.retrieve(response.id)


def test_an_english_question_to_be_answered_in_chinese_is_composed_by_glm(stack: Stack) -> None:
    asked = stack.client.responses.create(model="glowl", input="What colour is the owl? Answer in Chinese.")
    told = stack.client.responses.create(
        model="glowl", instructions="Always reply in Chinese.", input="What colour is the owl?"
    )

    for response in (asked, told):
        assert hybrid(response)["rule"] == "english"
        assert hybrid(response)["merge"] == "compose"
        assert hybrid(response)["engine"] == "glm"
