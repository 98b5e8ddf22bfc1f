"""A question in front of its picture reaches GLM behind it, and is shown as it was asked."""

from __future__ import annotations

import openai

from engines.base import ImagePart, TextPart
from engines.echo import EchoEngine
from tests.journeys.conftest import picture


def test_glm_gets_the_picture_first_and_the_caller_reads_the_order_that_was_sent(
    client: openai.OpenAI, echoes: dict[str, EchoEngine]
) -> None:
    content = [
        {"type": "input_text", "text": "图里有什么？"},
        {"type": "input_image", "detail": "auto", "image_url": picture("red")},
    ]

    response = client.responses.create(model="glowl", input=[{"role": "user", "content": content}])  # type: ignore[list-item,misc]

    request = echoes["glm"].last_request
    assert request is not None
    assert [type(part) for part in request.messages[-1].parts] == [ImagePart, TextPart]
    [item] = client.responses.input_items.list(response.id).data
    assert [part.type for part in item.content] == ["input_text", "input_image"]  # type: ignore[union-attr]
