"""JSON out of the real architecture: alone and beside free neighbours, with thinking, cut short, and refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import pytest

torch = pytest.importorskip("torch")

from engines.base import (  # noqa: E402
    EngineOptions,
    GenerationRequest,
    InvalidRequestError,
    Message,
    SamplingParams,
    TextPart,
    generate,
)
from engines.glm.engine import GlmEngine, load  # noqa: E402
from engines.pocket.random_tiny import make_glm  # noqa: E402

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "绿"]}, "maxItems": 2},
    },
    "required": ["name", "count", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("constrained") / "glm"
    make_glm(path)
    return path


@pytest.fixture
async def engine(checkpoint: Path) -> AsyncIterator[GlmEngine]:
    engine = load(EngineOptions(model=str(checkpoint), device="cpu"))
    await engine.start()
    yield engine
    await engine.aclose()


def ask(text: str, schema: object = None, *, enable_thinking: bool = False, **sampling: object) -> GenerationRequest:
    json_schema = None if schema is None else json.dumps(schema)
    knobs = SamplingParams(**({"max_tokens": 120, "json_schema": json_schema} | sampling))
    return GenerationRequest((Message("user", (TextPart(text),)),), knobs, enable_thinking=enable_thinking)


async def test_answers_satisfy_their_schemas_and_free_neighbours_answer_as_if_alone(engine: GlmEngine) -> None:
    # Given constrained and free requests, greedy and sampled
    requests = [
        ask("a", SCHEMA),
        ask("b"),
        ask("c", SCHEMA, temperature=1.0, seed=3),
        ask("d", {"type": "boolean"}, temperature=1.0, seed=4),
        ask("e", temperature=1.0, seed=5),
    ]
    alone = [await generate(engine, request) for request in requests]

    # When they share the batch
    together = await asyncio.gather(*(generate(engine, request) for request in requests))

    # Then each says the same, and those with a schema keep it
    assert [result.text for result in together] == [result.text for result in alone]
    for request, result in zip(requests, together, strict=True):
        if request.sampling.json_schema is not None:
            assert result.finish_reason == "stop"
            jsonschema.validate(json.loads(result.text), json.loads(request.sampling.json_schema))


async def test_a_schema_holds_for_the_answer_and_not_for_the_thinking(engine: GlmEngine) -> None:
    request = ask("a", SCHEMA, enable_thinking=True, temperature=1.3, seed=1, max_tokens=400)

    result = await generate(engine, request)

    assert result.text == "" or result.text.startswith('{"name":')
    if result.finish_reason == "stop":
        jsonschema.validate(json.loads(result.text), SCHEMA)


async def test_an_answer_cut_short_says_so(engine: GlmEngine) -> None:
    result = await generate(engine, ask("a", SCHEMA, max_tokens=4))

    assert result.finish_reason == "length"
    assert not result.text.endswith("}")


async def test_streamed_pieces_join_to_the_json_and_log_probabilities_are_the_models_own(engine: GlmEngine) -> None:
    result = await generate(engine, ask("a", {"type": "boolean"}, top_logprobs=3))

    assert json.loads(result.text) in (True, False)
    assert "".join(token.token for token in result.logprobs) == result.text
    # What the model would have liked to say was no JSON.
    assert any(token.top[0].token != token.token for token in result.logprobs)


async def test_a_schema_it_cannot_keep_is_refused_before_anything_is_computed(engine: GlmEngine) -> None:
    with pytest.raises(InvalidRequestError, match="'not'"):
        await generate(engine, ask("a", {"not": {}}))
