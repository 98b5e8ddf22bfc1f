"""Parity of engines.owl2 with the reference implementation on the golden conversations: ids, features, logits, answers.

The expected numbers were made by the reference itself (see the README beside them); tolerances are in owl2_golden.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from engines.owl2 import MPLUGOwl2ForConditionalGeneration, MPLUGOwl2Processor
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.owl2.insertion import plan_insertion
from engines.owl2.prompts import render
from tests.parity.owl2_golden import (
    FEATURES,
    GOLDEN,
    LOGITS,
    Case,
    arrays_of,
    cases,
    checkpoints,
    dtype,
    keeps_its_order,
    messages_of,
    needs_golden,
    open_image,
    pad_left,
    pixels_of,
    read_json,
)

pytestmark = needs_golden

GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}


@pytest.mark.parametrize("case", cases())
def test_a_golden_prompt_gives_the_golden_ids_and_pixels(case: Case, owl2_processor: MPLUGOwl2Processor) -> None:
    # Given a conversation, as messages with pictures among their parts
    tokenizer, expected = owl2_processor.tokenizer, arrays_of(case["arrays"])
    assert read_json("cases.json")["image_token_index"] == IMAGE_TOKEN_ID

    # Then the prompt, its ids and the pixels are the reference's
    if keeps_its_order(case):
        prompt = render(messages_of(case["messages"], case["images"]), read_json("cases.json")["template"])
        assert prompt.text == case["prompt"]
        assert len(prompt.images) == len(case["images"])
        assert tokenizer.encode_prompt(prompt) == case["input_ids"]
    assert tokenizer.encode_with_images(case["prompt"]) == case["input_ids"]
    assert expected["input_ids"].tolist() == [case["input_ids"]]
    pixel_values = pixels_of(case, owl2_processor)
    assert (pixel_values is None) == ("pixel_values" not in expected)
    if pixel_values is not None:
        torch.testing.assert_close(pixel_values, expected["pixel_values"], atol=0, rtol=0)


@pytest.mark.parametrize("case", cases())
@torch.inference_mode()
def test_a_golden_case_gives_the_golden_features_logits_and_hidden_states(
    case: Case, owl2_model: MPLUGOwl2ForConditionalGeneration
) -> None:
    expected = arrays_of(case["arrays"])
    input_ids, pixel_values = expected["input_ids"], expected.get("pixel_values")

    insertion = plan_insertion(input_ids, owl2_model.config.num_image_rows)
    torch.testing.assert_close(insertion.modality_indicators, expected["modality_indicators"])
    if pixel_values is not None:
        vision = owl2_model.model.vision_model(pixel_values)
        rows = owl2_model.model.visual_abstractor(vision)
        torch.testing.assert_close(vision, expected["vision_features"], **FEATURES)
        torch.testing.assert_close(rows, expected["abstractor_features"], **FEATURES)
    if "inputs_embeds" in expected:
        embeds = owl2_model.model.embed(insertion, pixel_values)
        torch.testing.assert_close(embeds, expected["inputs_embeds"], **FEATURES)
    outputs = owl2_model(input_ids=input_ids, pixel_values=pixel_values, output_hidden_states=True)

    assert outputs.logits.shape[1] == case["sequence_length_after_insertion"]
    torch.testing.assert_close(outputs.logits, expected["logits"], **LOGITS)
    if "hidden_states" in expected:
        torch.testing.assert_close(torch.stack(outputs.hidden_states), expected["hidden_states"], **LOGITS)


@pytest.mark.parametrize("case", cases(having="logits"))
@torch.inference_mode()
def test_eager_attention_gives_the_golden_logits_too(case: Case, owl2_model: MPLUGOwl2ForConditionalGeneration) -> None:
    expected, before = arrays_of(case["arrays"]), owl2_model.config._attn_implementation
    owl2_model.set_attn_implementation("eager")
    try:
        outputs = owl2_model(input_ids=expected["input_ids"], pixel_values=expected.get("pixel_values"))
    finally:
        owl2_model.set_attn_implementation(before)

    torch.testing.assert_close(outputs.logits, expected["logits"], **LOGITS)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("case", cases())
def test_generate_gives_the_golden_ids_with_and_without_a_cache(
    case: Case, use_cache: bool, owl2_model: MPLUGOwl2ForConditionalGeneration, owl2_processor: MPLUGOwl2Processor
) -> None:
    input_ids = torch.tensor([case["input_ids"]])
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    if case["images"]:
        inputs["pixel_values"] = pixels_of(case, owl2_processor)

    output = owl2_model.generate(
        **inputs,
        **GREEDY,
        max_new_tokens=case["max_new_tokens"],
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_logits=True,
    )

    expected = arrays_of(case["arrays"])
    assert expected["generated_ids"].tolist() == case["generated_ids"]
    assert output.sequences[0, input_ids.shape[1] :].tolist() == case["generated_ids"]
    torch.testing.assert_close(torch.cat(output.logits), expected["step_logits"], **LOGITS)


@pytest.mark.parametrize("case", cases())
def test_golden_answers_decode_to_the_golden_text(
    case: Case, owl2_processor: MPLUGOwl2Processor, owl2_model: MPLUGOwl2ForConditionalGeneration
) -> None:
    eos = owl2_model.generation_config.eos_token_id
    decode = owl2_processor.tokenizer.decode

    assert case["stopped_by_eos"] == (case["generated_ids"][-1] in ([eos] if isinstance(eos, int) else eos))
    if case["text_comparable"]:
        assert decode(case["generated_ids"]).strip() == case["text"]
        assert decode(case["generated_ids"], skip_special_tokens=False) == case["text_raw"]


@pytest.mark.parametrize("auto_class", [AutoModelForImageTextToText, AutoModelForCausalLM])
@pytest.mark.parametrize("folder", checkpoints())
def test_auto_classes_load_the_checkpoint_and_its_processor(auto_class: Any, folder: str) -> None:
    # Given the case with the most pictures
    case = max((case.values[0] for case in cases()), key=lambda case: len(case["images"]))
    processor = AutoProcessor.from_pretrained(GOLDEN / folder)
    model = auto_class.from_pretrained(GOLDEN / folder, dtype=dtype())

    inputs = processor(case["prompt"], [open_image(name) for name in case["images"]], aspect_ratio=case["preprocess"])
    output = model.generate(**inputs, **GREEDY, max_new_tokens=case["max_new_tokens"])

    assert output[0, inputs["input_ids"].shape[1] :].tolist() == case["generated_ids"]


@pytest.mark.parametrize("padded_on", ["left", "right"])
@pytest.mark.parametrize(
    "kind", [key for key, value in read_json("batch_generation.json").items() if isinstance(value, list)]
)
def test_batched_generation_gives_each_row_its_own_answer(
    kind: str, padded_on: str, owl2_model: MPLUGOwl2ForConditionalGeneration, owl2_processor: MPLUGOwl2Processor
) -> None:
    # Given rows that the reference answers rightly only one by one; where they are padded already, without the padding
    rows = read_json("batch_generation.json")[kind]
    masks = [row.get("attention_mask", [1] * len(row["input_ids"])) for row in rows]
    prompts = [
        [token_id for token_id, is_real in zip(row["input_ids"], mask, strict=True) if is_real]
        for row, mask in zip(rows, masks, strict=True)
    ]
    input_ids, attention_mask = pad_left(prompts)
    if padded_on == "right":
        longest = input_ids.shape[1]
        input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts])
        attention_mask = attention_mask.flip(1)
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "image" in rows[0]:
        pixels = [
            owl2_processor.pixel_values([open_image(row["image"])], aspect_ratio=row["preprocess"]) for row in rows
        ]
        inputs["pixel_values"] = torch.cat(pixels)

    output = owl2_model.generate(
        **inputs, **GREEDY, max_new_tokens=max(len(row["generated_ids_alone"]) for row in rows)
    )

    for row, generated in zip(rows, output[:, input_ids.shape[1] :].tolist(), strict=True):
        assert generated[: len(row["generated_ids_alone"])] == row["generated_ids_alone"]
        assert owl2_processor.tokenizer.encode_with_images(row["prompt"]) in prompts
