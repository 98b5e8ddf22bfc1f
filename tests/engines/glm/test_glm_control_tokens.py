"""What a caller types is text: no control token, special or not, gets into a prompt but those of the template."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import EngineOptions, ImagePart, Message, Part, Role, TextPart
from engines.glm.engine import GlmEngine, load
from engines.glm.processor import load_processor
from engines.glm.prompts import to_conversation
from engines.pocket.random_tiny import make_glm

PICTURE = ImagePart(b"", "image/png", "0")
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> GlmEngine:
    """With its tokenizer only."""
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("glm")
    make_glm(folder)
    engine = load(EngineOptions(str(folder)))
    engine.processor = load_processor(str(folder))
    return engine


def controls(engine: GlmEngine, ids: list[int]) -> Counter[int]:
    added = engine.processor.tokenizer.added_tokens_decoder
    return Counter(id_ for id_ in ids if id_ in added)


def prompt(engine: GlmEngine, role: Role, parts: tuple[Part, ...], *, enable_thinking: bool) -> list[int]:
    """Render a conversation in which one turn of the role consists of the parts."""
    plain = (TextPart("q"),)
    messages = [Message(other, parts if other == role else plain) for other in ROLES]
    messages.append(Message("user", plain))
    conversation = to_conversation(messages, enable_thinking=enable_thinking)
    num_pictures = sum(len(message.images) for message in messages)
    return engine.encode(conversation, [2] * num_pictures, enable_thinking=enable_thinking)


def tool_prompt(engine: GlmEngine, text: str, *, enable_thinking: bool) -> list[int]:
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": text}}}]},
        {"role": "tool", "content": text},
        {"role": "user", "content": "q"},
    ]
    return engine.encode(conversation, [], enable_thinking=enable_thinking)


def test_every_added_token_is_text_wherever_it_is_typed(engine: GlmEngine) -> None:
    tokens = [token.content for token in engine.processor.tokenizer.added_tokens_decoder.values()]
    assert {"<think>", "<|begin_of_box|>", "<|user|>", "<|image|>", "/nothink", "<tool_call>"} <= set(tokens)
    for enable_thinking in (False, True):
        for role in ROLES:
            clean = controls(engine, prompt(engine, role, (TextPart("x"),), enable_thinking=enable_thinking))
            for token in tokens:
                ids = prompt(engine, role, (TextPart(f"a{token}b{token}"),), enable_thinking=enable_thinking)
                assert controls(engine, ids) == clean, (token, role)
        clean = controls(engine, tool_prompt(engine, "x", enable_thinking=enable_thinking))
        for token in tokens:
            assert controls(engine, tool_prompt(engine, f"a{token}", enable_thinking=enable_thinking)) == clean, token


def test_a_typed_control_token_is_still_there_as_text(engine: GlmEngine) -> None:
    ids = prompt(engine, "user", (TextPart("is <|begin_of_box|> a mark?"),), enable_thinking=False)

    assert "is <|begin_of_box|> a mark?" in engine.processor.tokenizer.decode(ids)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_no_mixture_of_pieces_parts_and_pictures_makes_a_control_token(engine: GlmEngine, data: st.DataObject) -> None:
    # Given parts made of tokens, halves of tokens, text and pictures, cut anywhere
    tokens = [token.content for token in engine.processor.tokenizer.added_tokens_decoder.values()]
    halves = st.sampled_from(tokens).flatmap(lambda token: st.integers(0, len(token)).map(lambda n: token[:n]))
    ends = st.sampled_from(tokens).flatmap(lambda token: st.integers(0, len(token)).map(lambda n: token[n:]))
    text = st.lists(st.one_of(st.sampled_from(tokens), halves, ends, st.text(max_size=3)), max_size=4).map("".join)
    parts = data.draw(st.lists(st.one_of(text.map(TextPart), st.just(PICTURE)), min_size=1, max_size=5))
    role = data.draw(st.sampled_from(ROLES))
    enable_thinking = data.draw(st.booleans())

    ids = prompt(engine, role, tuple(parts), enable_thinking=enable_thinking)

    # Then the control tokens are those of the same turn with harmless words
    harmless: list[Part] = [TextPart("x") if isinstance(part, TextPart) else part for part in parts]
    clean = prompt(engine, role, tuple(harmless), enable_thinking=enable_thinking)
    assert controls(engine, ids) == controls(engine, clean)
