"""engines.owl2.training: labels, batches and names, on a tiny tokenizer and model of the tests' own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engines.owl2.processor import ImageProcessor
from engines.owl2.tokenizer import Owl2Tokenizer
from engines.owl2.training import (
    LabelledSample,
    collate,
    freeze_untrained,
    label_sample,
    lora_target_modules,
    modality_lengths,
    render_training_text,
    sample_lengths,
    training_pixels,
)


def sample(*turns: str, image: bool = False, first: str = "human") -> dict[str, Any]:
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    messages = [{"from": roles[index % 2], "value": value} for index, value in enumerate(turns)]
    return {"id": "s", "conversations": messages} | ({"image": "a.png"} if image else {})


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Owl2Tokenizer:
    """One that gives text after ``</s>`` a prefix space, as it does at the start."""
    return Owl2Tokenizer(checkpoint / "tokenizer.model", legacy=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (sample("q", "a"), "USER: q ASSISTANT: a</s>"),
        (sample("q", "a", "q2", "a2"), "USER: q ASSISTANT: a</s>USER: q2 ASSISTANT: a2</s>"),
        (sample("<|image|>\nq", "a", image=True), "USER: <|image|>\nq ASSISTANT: a</s>"),
        (sample("q\n<|image|>", "a", image=True), "USER: <|image|>\nq ASSISTANT: a</s>"),
        (sample("<|image|>q<|image|>", "a", image=True), "USER: <|image|>\nq ASSISTANT: a</s>"),
        (sample("<|image|>", "a", image=True), "USER: <|image|> ASSISTANT: a</s>"),
        (sample("see <|image|>?", "a"), "USER: see <|image|>? ASSISTANT: a</s>"),
        (sample("hello", "q", "a", first="gpt"), "USER: q ASSISTANT: a</s>"),
        (sample("q", ""), "USER: q ASSISTANT:"),
    ],
)
def test_conversations_become_training_text(given: dict[str, Any], expected: str) -> None:
    assert render_training_text(given, "mplug_owl2") == expected
    assert render_training_text(given).endswith(f"user's questions. {expected}")


def test_roles_that_do_not_take_turns_and_two_marked_messages_are_refused_by_name() -> None:
    twice = {"id": "s7", "conversations": [{"from": "human", "value": "q"}] * 2}

    with pytest.raises(ValueError, match="s7: message 1 is from 'human'"):
        render_training_text(twice)
    with pytest.raises(ValueError, match="2 messages hold a marker"):
        render_training_text(sample("<|image|>q", "a", "<|image|>q2", "a2", image=True))


@pytest.mark.parametrize("image", [False, True])
def test_answers_and_their_ends_are_learned_and_nothing_else(tokenizer: Owl2Tokenizer, image: bool) -> None:
    marker = "<|image|>" if image else ""
    labelled = label_sample(sample(f"{marker}one two", "three", "four", "five six", image=image), tokenizer)

    learned = [label for label in labelled.labels if label != -100]
    expected = [*tokenizer.encode("three")[1:], 2, *tokenizer.encode("five six")[1:], 2]
    assert learned == expected
    assert len(labelled.labels) == len(labelled.input_ids)
    assert all(label in (-100, id_) for label, id_ in zip(labelled.labels, labelled.input_ids, strict=True))
    assert labelled.num_images == int(image)


def test_rounds_whose_tokens_do_not_add_up_teach_nothing_and_say_so(
    tokenizer: Owl2Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an unknown token in the text, which is what padding is made of, so that it is not counted
    with caplog.at_level(logging.WARNING):
        labelled = label_sample(sample("one", "<unk> two"), tokenizer)

    assert set(labelled.labels) == {-100}
    assert "sample s: its rounds have" in caplog.text


def test_a_tokenizer_that_takes_a_token_from_later_rounds_teaches_one_round_only(checkpoint: Path) -> None:
    # Given one that drops the prefix space after </s>, for which these pieces have a token of its own
    tokenizer = Owl2Tokenizer(checkpoint / "tokenizer.model", legacy=False)
    assert (
        len(tokenizer.encode("a</s>\U0001f989"))
        < len(tokenizer.encode("a</s>")) + len(tokenizer.encode("\U0001f989")) - 1
    )
    two_rounds = sample("one", "two", "three", "four")
    two_rounds["conversations"][1]["value"] = "two</s>\U0001f989 ASSISTANT: owl"

    assert set(label_sample(two_rounds, tokenizer).labels) == {-100}
    assert set(label_sample(sample("one", "two"), tokenizer).labels) != {-100}


def test_an_answer_that_holds_the_mark_of_an_answer_ends_the_learning(tokenizer: Owl2Tokenizer) -> None:
    labelled = label_sample(sample("one", "two ASSISTANT: three"), tokenizer)

    assert set(labelled.labels) == {-100}


def test_long_text_is_cut_and_what_is_left_is_still_learned(tokenizer: Owl2Tokenizer) -> None:
    whole = label_sample(sample("one", "two three four five"), tokenizer)
    length = len(whole.input_ids) - 2

    cut = label_sample(sample("one", "two three four five"), tokenizer, max_length=length)

    assert cut.input_ids == whole.input_ids[:length]
    assert cut.labels == whole.labels[:length]


def test_batches_are_padded_on_the_right_and_hold_the_pictures_of_markers_only() -> None:
    samples = [LabelledSample((1, 5), (-100, 5)), LabelledSample((1, -200, 7), (-100, -100, 7))]
    dummy, picture = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)

    batch = collate(samples, [dummy, picture], pad_token_id=0)

    assert batch["input_ids"].tolist() == [[1, 5, 0], [1, -200, 7]]
    assert batch["labels"].tolist() == [[-100, 5, -100], [-100, -100, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["pixel_values"].tolist() == [picture.tolist()]


def test_a_marker_that_was_cut_off_takes_its_picture_with_it_and_one_without_a_picture_is_refused() -> None:
    samples = [LabelledSample((1, 5, -200), (-100, 5, -100))]

    assert "pixel_values" not in collate(samples, [torch.zeros(3, 4, 4)], pad_token_id=0, max_length=2)
    with pytest.raises(ValueError, match="sample 0 of the batch has a marker but no picture"):
        collate(samples, [None], pad_token_id=0)


def test_training_pads_pictures_or_cuts_their_sides_off() -> None:
    processor = ImageProcessor(8, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    wide = Image.new("RGB", (32, 8), "white")

    assert training_pixels(wide, processor, "pad").min() < 1  # the padding's colour is there
    assert training_pixels(wide, processor, "square").min() == pytest.approx(2.0)


def test_lora_adapts_nine_modules_of_each_layer_and_no_others(model: Any) -> None:
    names = lora_target_modules(model)

    assert len(names) == 9 * model.config.num_hidden_layers
    assert "model.layers.0.self_attn.v_proj.multiway.1" in names
    assert not any("vision" in name or "abstractor" in name or "head" in name for name in names)


def test_all_but_the_vision_tower_trains(model: Any) -> None:
    freeze_untrained(model)

    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {f"model.vision_model.{name}" for name, _ in model.model.vision_model.named_parameters()}


def test_lengths_count_words_and_mark_pictures() -> None:
    samples = [sample("one two", "three"), sample("<|image|> one", "two", image=True)]

    assert sample_lengths(samples) == [3, 131]
    assert modality_lengths(samples) == [-3, 3]


def test_a_batch_made_here_goes_through_the_model_and_learns(model: Any, tokenizer: Owl2Tokenizer) -> None:
    samples = [label_sample(sample("<|image|>one", "two", image=True), tokenizer, "mplug_owl2"),
               label_sample(sample("three", "four"), tokenizer, "mplug_owl2")]  # fmt: skip
    picture = torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(0))
    batch = collate(samples, [picture, None], pad_token_id=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)

    losses = []
    for _ in range(3):
        loss = model(**batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses == sorted(losses, reverse=True)
