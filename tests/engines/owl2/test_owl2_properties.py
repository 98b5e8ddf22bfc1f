"""Putting images into text, for any prompt and any conversation: each picture once, in order, where it belongs."""

from __future__ import annotations

from itertools import chain, groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import ImagePart, Message, Part, TextPart
from engines.owl2.insertion import plan_insertion
from engines.owl2.model import MPLUGOwl2Model
from engines.owl2.prompts import EndOfTurn, Prompt, PromptPiece, render
from engines.owl2.tokenizer import Owl2Tokenizer

I = -200  # noqa: E741 - reads well in the strategies below

settings.register_profile("owl2-properties", derandomize=True, deadline=None, max_examples=60)
relaxed = settings(settings.get_profile("owl2-properties"))


def picture(index: int) -> ImagePart:
    return ImagePart(str(index).encode(), "image/png", f"{index:064d}")


ids_of_a_row = st.lists(st.sampled_from([I, 5, 6, 7, 8]), max_size=7)


@st.composite
def batches(draw: Any) -> tuple[list[list[int]], list[list[int]], str]:
    """Rows of ids, how many columns of each are padding, and on which side."""
    rows = draw(st.lists(ids_of_a_row, min_size=1, max_size=4))
    side = draw(st.sampled_from(["left", "right"]))
    longest = max(1, *map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    masks = [
        gap + [1] * len(row) if side == "left" else [1] * len(row) + gap for gap, row in zip(gaps, rows, strict=True)
    ]
    padded = [gap + row if side == "left" else row + gap for gap, row in zip(gaps, rows, strict=True)]
    return padded, masks, side


@relaxed
@given(batch=batches(), num_rows=st.integers(1, 4), side=st.sampled_from(["left", "right"]))
def test_each_row_is_what_its_own_tokens_expand_to(batch: Any, num_rows: int, side: Any) -> None:
    # Given a padded batch whose labels are its ids
    ids, masks, _ = batch
    labels = torch.tensor(ids).clamp(min=0)

    plan = plan_insertion(torch.tensor(ids), num_rows, torch.tensor(masks), labels, padding_side=side)

    # Then each row's real positions hold, in order, its tokens, each marker as so many image rows
    assert plan.attention_mask is not None
    assert plan.labels is not None
    for index, (row, mask) in enumerate(zip(ids, masks, strict=True)):
        real = [token for token, is_real in zip(row, mask, strict=True) if is_real]
        tokens = list(chain.from_iterable([0] * num_rows if token == I else [token] for token in real))
        modality = list(chain.from_iterable([1] * num_rows if token == I else [0] for token in real))
        learned = list(chain.from_iterable([-100] * num_rows if token == I else [token] for token in real))
        is_real = plan.attention_mask[index].bool()
        assert plan.token_ids[index][is_real].tolist() == tokens
        assert plan.modality_indicators[index][is_real].tolist() == modality
        assert plan.labels[index][is_real].tolist() == learned
        assert not plan.modality_indicators[index][~is_real].any()
    # And the batch is no longer than its longest row
    width = max(len(row) + row.count(I) * (num_rows - 1) for row in ids)
    assert plan.token_ids.shape == plan.attention_mask.shape == (len(ids), width)


@relaxed
@given(batch=batches(), num_rows=st.integers(1, 4), side=st.sampled_from(["left", "right"]))
def test_every_image_appears_once_and_in_the_order_of_the_markers(batch: Any, num_rows: int, side: Any) -> None:
    # Given an eye that gives image n rows full of n, and text that embeds to -1
    ids, masks, _ = batch
    num_images = sum(row.count(I) for row in ids)
    model: Any = SimpleNamespace(
        config=SimpleNamespace(num_image_rows=num_rows),
        embed_tokens=lambda token_ids: torch.full((*token_ids.shape, 1), -1.0),
        encode_images=lambda pixels: pixels[:, None, None].expand(-1, num_rows, 1),
    )
    plan = plan_insertion(torch.tensor(ids), num_rows, torch.tensor(masks), padding_side=side)

    rows = MPLUGOwl2Model.embed(model, plan, torch.arange(num_images, dtype=torch.float32))

    shown = rows[..., 0][plan.modality_indicators.bool()].tolist()
    assert shown == [float(image) for image in range(num_images) for _ in range(num_rows)]


words = st.text(alphabet="ab :.\n\u4e2d\U0001f989", max_size=6)


@st.composite
def prompts(draw: Any) -> Prompt:
    pieces = draw(st.lists(st.one_of(words, st.just(I), st.just(EndOfTurn.TOKEN)), max_size=8))
    joined: list[PromptPiece] = []
    for kind, group in groupby(pieces, key=type):
        if kind is str:
            joined += [text] if (text := "".join(group)) else []
        else:
            joined += [picture(index) if piece == I else piece for index, piece in enumerate(group)]
    return Prompt(tuple(joined))


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "modern"])
def tokenizer(request: pytest.FixtureRequest, checkpoint: Path) -> Owl2Tokenizer:
    return Owl2Tokenizer(checkpoint / "tokenizer.model", legacy=request.param)


@relaxed
@given(prompt=prompts())
def test_ids_of_any_prompt_follow_the_references_rule(tokenizer: Owl2Tokenizer, prompt: Prompt) -> None:
    """Split at the markers, tokenise every chunk with BOS, and keep only the first chunk's, if there is one."""
    first, *others = prompt.text.split("<|image|>")
    expected = tokenizer.encode(first) if first else []
    for chunk in others:
        ids = tokenizer.encode(chunk) if chunk else []
        expected += [I, *(ids[1:] if first else ids)]

    ids = tokenizer.encode_prompt(prompt)

    assert ids == expected == tokenizer.encode_with_images(prompt.text)
    assert ids.count(I) == len(prompt.images)


user_parts = st.lists(st.one_of(words.filter(bool), st.just(I)), min_size=1, max_size=4)


@st.composite
def conversations(draw: Any) -> list[Message]:
    """Rounds of a question with any number of pictures and an answer; the last question is open."""
    names = iter(range(100))
    messages: list[Message] = []
    for turn in draw(st.lists(user_parts, min_size=1, max_size=4)):
        parts: list[Part] = [picture(next(names)) if part == I else TextPart(part) for part in turn]
        messages += [Message("user", tuple(parts)), Message("assistant", (TextPart(draw(words)),))]
    return messages[:-1]


@relaxed
@given(messages=conversations())
def test_every_turn_of_a_history_keeps_its_own_pictures(tokenizer: Owl2Tokenizer, messages: list[Message]) -> None:
    prompt = render(messages)

    # The prompt's turns, each ended by the token that ends an answer
    turns: list[list[PromptPiece]] = [[]]
    for piece in prompt.pieces:
        if isinstance(piece, EndOfTurn):
            turns.append([])
        else:
            turns[-1].append(piece)
    asked = [message for message in messages if message.role == "user"]
    assert [[piece for piece in turn if isinstance(piece, ImagePart)] for turn in turns] == [
        list(message.images) for message in asked
    ]
    # What is asked again with an answer and a new question begins with the same tokens: a cache can go on from there
    again = render([*messages, Message("assistant", (TextPart("a"),)), Message("user", (TextPart("b"),))])
    ids, longer = tokenizer.encode_prompt(prompt), tokenizer.encode_prompt(again)
    end = len(ids) - len(tokenizer.encode("ASSISTANT:"))
    assert longer[:end] == ids[:end]
