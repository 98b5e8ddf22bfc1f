"""``truncation`` of Responses: what is left out of a conversation that is too long, and what is said of it."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from engines.echo import EchoEngine

GLM = "glm-4.6v-flash"


def turn(number: int, num_words: int = 30) -> list[Any]:
    """A question of so many words, and an answer of ten."""
    question = " ".join([f"question{number}"] + ["word"] * (num_words - 1))
    return [{"role": "user", "content": question}, {"role": "assistant", "content": " ".join(["answer"] * 10)}]


def conversation(num_turns: int) -> Any:
    """Turns of 40 words each, then a question of two."""
    return [
        *(message for number in range(num_turns) for message in turn(number)),
        {"role": "user", "content": "And now?"},
    ]


def texts_of(echo: EchoEngine) -> list[str]:
    assert echo.last_request is not None
    return [message.text.split(" ")[0] for message in echo.last_request.messages]


def degraded(response: Any) -> list[str]:
    return list(response.model_extra["hybrid"].get("degraded", []))


def test_the_oldest_turns_are_left_out_whole_and_the_answer_says_how_many(
    client: openai.OpenAI, echoes: dict[str, EchoEngine]
) -> None:
    # Given a context of 200 words, of which the answer wants 50; instructions and the last question take 4
    response = client.responses.create(model=GLM, input=conversation(6), instructions="Be brief.", truncation="auto")

    assert texts_of(echoes["glm"]) == [
        "Be",
        *(f"question{n}" if is_user else "answer" for n in (3, 4, 5) for is_user in (1, 0)),
        "And",
    ]
    assert response.truncation == "auto"
    assert any(note.startswith("the 3 oldest turns were left out") for note in degraded(response))


def test_an_answer_that_is_continued_is_not_parted_from_its_question(client: openai.OpenAI) -> None:
    # Given a question that is too long, and the begin of its answer, behind which we ask to go on
    question, _ = turn(0, num_words=199)
    begun = [question, {"role": "assistant", "content": "It is"}]

    # Then it is refused: without its question nobody could go on
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.responses.create(model=GLM, input=begun, truncation="auto")
    assert caught.value.code == "context_length_exceeded"


def test_what_fits_stays_whole(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    response = client.responses.create(model=GLM, input=conversation(3), truncation="auto")

    assert texts_of(echoes["glm"])[0] == "question0"
    assert degraded(response) == []


def test_a_smaller_answer_leaves_more_of_the_conversation(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    client.responses.create(model=GLM, input=conversation(6), truncation="auto", max_output_tokens=16)

    assert texts_of(echoes["glm"])[0] == "question2"


def test_a_call_stays_with_its_question_and_its_result(client: openai.OpenAI, echoes: dict[str, EchoEngine]) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "noon"}
    tools: Any = [{"type": "function", "name": "clock"}]

    client.responses.create(model=GLM, input=[*conversation(6), call, result], tools=tools, truncation="auto")

    assert echoes["glm"].last_request is not None
    assert [message.role for message in echoes["glm"].last_request.messages][-3:] == ["user", "assistant", "tool"]
    assert len(echoes["glm"].last_request.messages) == 3 + 2 * 3


@pytest.mark.parametrize("fields", [{"truncation": "disabled"}, {}], ids=["disabled", "nothing"])
def test_without_it_a_conversation_that_is_too_long_is_refused(client: openai.OpenAI, fields: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=GLM, input=conversation(6), **fields)

    assert refused.value.code == "context_length_exceeded"


def test_the_last_turn_is_never_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=GLM, input=[*turn(0), turn(1, 300)[0]], truncation="auto")

    assert refused.value.code == "context_length_exceeded"
