"""The shipped pocket models as processes: Owl2 finds, GLM says it in Chinese."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import openai
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from engines.pocket.evaluate import DEFAULT_MODELS, draw_type
from engines.pocket.scenes.drawing import render
from engines.pocket.scenes.nouns import Question
from engines.pocket.scenes.words import say
from tests.support.stack import ProcessStack

CHECKPOINTS = {name: DEFAULT_MODELS / name for name in ("glm", "owl2")}
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not all((folder / "config.json").is_file() for folder in CHECKPOINTS.values()),
        reason="the pocket checkpoints are not here",
    ),
]
NUM_QUESTIONS = 8
# In Chinese, of one picture, and such that only Owl2 was trained for them; the right answer is known in English.
TYPE = "hop_in_chinese"


class Stack(ProcessStack):
    """What `glowl up --models pocket` starts."""

    engines: ClassVar[dict[str, Any]] = {}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    # Tiny models on several threads wait for each other more than they compute.
    stack = Stack(checkpoints=CHECKPOINTS, env={"OMP_NUM_THREADS": "1"})
    stack.start()
    stack.wait_ready()
    yield stack
    stack.stop()


@dataclass(frozen=True)
class Answered:
    """What each engine said to a question, and what would be right."""

    question: Question
    response: Any
    draft: str
    finding: str
    final: str

    @property
    def right(self) -> str:
        return say(self.question.answer, "zh")

    @property
    def is_found(self) -> bool:
        return self.finding.strip().lower() == self.question.answer


def ask(client: openai.OpenAI, question: Question) -> Answered:
    pictures = []
    for scene in question.images:
        buffer = io.BytesIO()
        render(scene).save(buffer, "PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        pictures.append({"type": "input_image", "image_url": url})
    content: Any = [*pictures, {"type": "input_text", "text": question.text}]
    response = client.responses.create(
        model="glowl",
        input=[{"role": "user", "content": content}],
        max_output_tokens=40,
        extra_body={"hybrid": {"route": "deep"}},
    )
    job = client.get(f"/jobs/{response.id}", cast_to=object)
    said = {unit["name"]: unit["result"]["text"] for unit in job["units"] if unit["result"]}  # type: ignore[index]
    return Answered(question, response, said["draft"], said["deep"], response.output_text)


def test_the_final_answer_to_a_two_hop_question_is_chinese_and_built_on_what_owl2_found(stack: Stack) -> None:
    # Given questions whose answer GLM alone does not find
    questions = draw_type("owl2", TYPE, NUM_QUESTIONS, seed=8)

    # When they are asked as any caller would
    with openai.OpenAI(base_url=stack.urls[0] + "/v1", api_key="unused", max_retries=0) as client:
        answered = [ask(client, question) for question in questions]
    table = [(each.question.text, each.right, each.draft, each.finding, each.final) for each in answered]

    # Then GLM composes each answer, in Chinese
    for each in answered:
        hybrid = each.response.model_extra["hybrid"]
        assert (each.response.status, hybrid["merge"], hybrid["degraded"]) == ("completed", "compose", [])
        assert re.search("[一-鿿]", each.final), table
        assert not re.search("[A-Za-z]", each.final), table
    # And what Owl2 found is what it says, also where GLM's own draft was wrong
    found = [each for each in answered if each.is_found]
    assert len(found) >= NUM_QUESTIONS / 2, table
    assert sum(each.final.strip() == each.right for each in found) >= 0.85 * len(found), table
    assert any(each.final.strip() == each.right != each.draft.strip() for each in found), table
