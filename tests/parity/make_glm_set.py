"""Write a set like GLM's golden one with other sizes: ``python -m tests.parity.make_glm_set FOLDER``.

In: a folder that is not there yet. Out: a checkpoint, pictures, and what transformers alone makes of conversations
about them, in the golden set's own format. None of our code takes part, so whatever differs is a fault of ours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm46VProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.processing_utils import ProcessorMixin

NUM_NEW = 9
SEED = 11
PATCH, MERGE = 6, 3
# Not in the real checkpoint's order, and the placeholder is not among the last.
SPECIAL = [
    "<|image|>",
    "<|video|>",
    "/nothink",
    "<|observation|>",
    "<|assistant|>",
    "<|user|>",
    "<|system|>",
    "<sop>",
    "<eop>",
    "[gMASK]",
    "[sMASK]",
    "[MASK]",
    "<|endoftext|>",
    "<|end_of_image|>",
    "<|begin_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
]
VISIBLE = [
    "</think>",
    "<think>",
    "<|end_of_box|>",
    "<|begin_of_box|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
]
TEMPLATE = """
{%- macro flat(content) -%}
  {%- if content is string -%}{{ content }}{%- else -%}
    {%- for part in content -%}
      {{ part.text if part.type == 'text' else '<|begin_of_image|><|image|><|end_of_image|>' }}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set off = enable_thinking is defined and enable_thinking == false -%}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list -%}
[gMASK]<sop>
{%- for message in messages -%}
  {%- set text = flat(message.content) -%}
  {%- if message.role == 'system' -%}<|system|>{{ '\\n' + text }}
  {%- elif message.role == 'user' -%}
    <|user|>{{ '\\n' + text }}{{ '/nothink' if off and not text.endswith('/nothink') }}
  {%- elif message.role == 'assistant' -%}
    {%- set is_old = users[-1] in messages[loop.index0:] -%}
    {%- set body = text.split('</think>')[-1].strip() -%}
    <|assistant|>{{ '\\n<think>' }}{{ '' if is_old else message.reasoning_content or '' }}</think>
    {{- '\\n' + body if body }}
    {%- for call in message.tool_calls or [] -%}
      {{ '\\n<tool_call>' + call.function.name + '\\n' }}
      {%- for key, value in call.function.arguments.items() -%}
        <arg_key>{{ key }}</arg_key>{{ '\\n' }}<arg_value>{{ value }}</arg_value>{{ '\\n' }}
      {%- endfor -%}
      </tool_call>
    {%- endfor -%}
  {%- elif message.role == 'tool' -%}
    <|observation|>{{ '\\n<tool_response>\\n' + text + '\\n</tool_response>\\n' }}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{{ '\\n<think></think>\\n' if off else '\\n' }}{%- endif -%}
"""
PICTURES = {  # name: mode and size
    "field.png": ("RGB", (50, 40)),
    "other.png": ("RGB", (50, 40)),  # of the first one's size
    "tower.jpg": ("RGB", (31, 160)),
    "banner.png": ("L", (2300, 30)),  # over 2048 pixels long, and scaled down by the set's own bound
    "speck.png": ("RGBA", (5, 4)),
    "chart.png": ("P", (130, 90)),
}
LONG = "One after another they say what they have seen: a red circle, a blue square, 三个人, 价格 42. " * 12


class Processor(Glm46VProcessor):
    """The library's, without its videos, which need torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        to_id = tokenizer.convert_tokens_to_ids
        self.image_token, self.video_token = "<|image|>", "<|video|>"
        self.image_token_id, self.video_token_id = to_id(self.image_token), to_id(self.video_token)
        self.video_start_id, self.video_end_id = to_id("<|begin_of_video|>"), to_id("<|end_of_video|>")
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([LONG, "What is in the picture? 图里有什么？ Compare both."], trainer)
    tokenizer.add_tokens([AddedToken(name, special=name in SPECIAL, normalized=False) for name in SPECIAL + VISIBLE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        padding_side="left",
        chat_template=TEMPLATE.strip(),
    )


def make_model(tokenizer: PreTrainedTokenizerFast, eos_ids: list[int]) -> Glm4vForConditionalGeneration:
    names = {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    config = Glm4vConfig(
        text_config={
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 56,
            "vocab_size": 500,
            "max_position_embeddings": 4096,
            "initializer_range": 0.5,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [1, 1, 2],
            },
            "eos_token_id": eos_ids,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 24,
            "num_heads": 2,
            "intermediate_size": 28,
            "out_hidden_size": 96,
            "image_size": 5 * PATCH,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "initializer_range": 0.5,
        },
        **{key: tokenizer.convert_tokens_to_ids(name) for key, name in names.items()},
        architectures=["Glm4vForConditionalGeneration"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(SEED)
    model = Glm4vForConditionalGeneration(config).eval()
    often = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "<|begin_of_box|>", "<|image|>"])
    with torch.no_grad():  # so that thinking, marks, placeholders and ends come up in a few answers
        model.lm_head.weight[[*often, *eos_ids]] *= 1.6
    model.generation_config.update(
        do_sample=True, temperature=0.8, top_k=2, eos_token_id=eos_ids, pad_token_id=tokenizer.pad_token_id
    )
    return model


def draw(folder: Path) -> None:
    folder.mkdir()
    for number, (name, (mode, size)) in enumerate(PICTURES.items()):
        image = Image.new("RGBA", size, (30 + 40 * number, 200 - 30 * number, 90, 255 if mode != "RGBA" else 60))
        pen = ImageDraw.Draw(image)
        width, height = size
        pen.ellipse((1, 1, 2 + width // 2, 1 + height // 2), (250, 30 * number, 10, 255))
        pen.line((0, height, width, 0), (255, 255, 255, 255), 2)
        image.convert(mode).save(folder / name)


def user(*parts: str) -> dict[str, Any]:
    """Make a turn; what is the name of a picture becomes one."""
    content: list[dict[str, str]] = [
        {"type": "image", "file": f"images/{part}"} if part in PICTURES else {"type": "text", "text": part}
        for part in parts
    ]
    is_plain = len(parts) == 1 and parts[0] not in PICTURES
    return {"role": "user", "content": parts[0] if is_plain else content}


def cases() -> dict[str, tuple[list[dict[str, Any]], bool | None]]:
    """Return conversations and their thinking switch by name."""
    ask, more = "What is in the picture?", "图里有什么？"
    system = {"role": "system", "content": [{"type": "text", "text": "Be short."}]}
    call = {"type": "function", "function": {"name": "zoom", "arguments": {"x": "4", "what": "脸"}}}
    return {
        "words": ([user(more)], None),
        "words quiet": ([user(more)], False),
        "words.loud": ([user(more)], True),
        "long": ([system, user(LONG)], False),
        "typed-switch": ([user(f"{more}/nothink")], False),
        "field": ([system, user("field.png", ask)], False),
        "field_more": ([system, user("field.png", more)], False),
        "field_loud": ([system, user("field.png", more)], True),
        "twin": ([system, user("field.png", "speck.png", ask)], False),
        "twin_of_the_second": ([system, user("other.png", "speck.png", ask)], False),
        "last": ([user(ask, "tower.jpg")], None),
        "banner": ([user("banner.png", more)], False),
        "same_twice": ([user("speck.png", "speck.png", "Compare both.")], False),
        "four": ([user("chart.png", "a", "field.png", "speck.png", "b", "tower.jpg")], False),
        "turns": (
            [
                system,
                user("chart.png", ask),
                {"role": "assistant", "content": "<think>\nhm</think>\n\n42 "},
                user("tower.jpg", more),
            ],
            False,
        ),
        "turns_longer": (
            [
                system,
                user("chart.png", ask),
                {"role": "assistant", "content": "42", "reasoning_content": "because"},
                user("tower.jpg", more),
                {"role": "assistant", "content": [{"type": "text", "text": "人"}]},
                user("field.png", "Compare both."),
            ],
            False,
        ),
        "tool": (
            [
                user("field.png", ask),
                {"role": "assistant", "content": "", "reasoning_content": "closer", "tool_calls": [call]},
                {"role": "tool", "content": user("here: ", "speck.png")["content"]},
            ],
            True,
        ),
    }


def answer(
    model: Glm4vForConditionalGeneration,
    processor: Processor,
    folder: Path,
    messages: list[dict[str, Any]],
    thinking: bool | None,
) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Compute everything that the golden set keeps about a conversation; the logits apart."""

    def opened(content: Any) -> Any:
        if isinstance(content, str):
            return content
        return [
            {"type": "image", "image": Image.open(folder / part["file"])} if part["type"] == "image" else part
            for part in content
        ]

    conversation = [{**turn, "content": opened(turn["content"])} for turn in messages]
    switch = {} if thinking is None else {"enable_thinking": thinking}
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False, **switch)
    prepared = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, **switch
    )
    inputs = {key: torch.as_tensor(np.asarray(value)) for key, value in prepared.items()}
    ids = inputs["input_ids"]  # (1, S)
    model.model.rope_deltas = None
    with torch.inference_mode():
        output = model.generate(
            **inputs, do_sample=False, max_new_tokens=NUM_NEW, return_dict_in_generate=True, output_logits=True
        )
    greedy = output.sequences[0, ids.shape[1] :].tolist()
    top = torch.cat(output.logits).float().topk(2).values  # (n, 2)
    eos_ids = model.generation_config.eos_token_id
    case: dict[str, Any] = {"messages": messages, "enable_thinking": thinking, "tags": [], "prompt": prompt}
    case |= {"input_ids": ids[0].tolist(), "n_image_tokens": int((ids == model.config.image_token_id).sum())}
    case |= {"image_grid_thw": [], "greedy_ids": greedy, "greedy_text": processor.tokenizer.decode(greedy)}
    case |= {"stopped": greedy[-1] in eos_ids, "min_margin": float((top[:, 0] - top[:, 1]).min())}
    if "pixel_values" in inputs:
        pixels = inputs["pixel_values"]
        case["image_grid_thw"] = inputs["image_grid_thw"].tolist()
        case["pixel_values"] = {"shape": list(pixels.shape), "mean": float(pixels.mean()), "std": float(pixels.std())}
        _, delta = model.model.get_rope_index(ids, inputs["mm_token_type_ids"], inputs["image_grid_thw"])
        case["rope_delta"] = int(delta)
    return case, output.logits[0][0].float().numpy()


def common_prefix(*all_ids: Sequence[int]) -> int:
    return next(
        (place for place, ids in enumerate(zip(*all_ids, strict=False)) if len(set(ids)) > 1), min(map(len, all_ids))
    )


def write_set(folder: Path) -> None:
    """Write the whole set into a new folder."""
    folder.mkdir(parents=True)
    draw(folder / "images")
    tokenizer = make_tokenizer()
    eos_ids = tokenizer.convert_tokens_to_ids(["<|user|>", "<|endoftext|>", "<|observation|>"])
    model = make_model(tokenizer, eos_ids)
    images = Glm46VImageProcessorPil(
        size={"shortest_edge": 2 * (2 * PATCH * MERGE) ** 2, "longest_edge": 2 * 9000},
        patch_size=PATCH,
        merge_size=MERGE,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.3, 0.4],
    )
    model.save_pretrained(folder / "model", max_shard_size="60KB")
    tokenizer.save_pretrained(folder / "model")
    images.save_pretrained(folder / "model")

    processor = Processor(images, tokenizer, chat_template=tokenizer.chat_template)
    written, logits = {}, {}
    for name, (messages, thinking) in cases().items():
        case, logits[f"logits__{name}"] = answer(model, processor, folder, messages, thinking)
        written[name] = {"name": name, **case}
    written["words quiet"]["tags"] = ["pair:words"]
    written["twin_of_the_second"]["tags"] = ["same_ids_as:twin"]
    del written["words"]["tags"]  # nothing says that there must be any
    np.savez(folder / "cases.npz", **logits)
    families = {}
    for first, *others in (["field", "field_more", "field_loud"], ["turns", "turns_longer"]):
        length = common_prefix(*(written[name]["input_ids"] for name in (first, *others)))
        families[first] = {"cases": [first, *others], "common_prefix_tokens": length}
    families["field"]["rope_delta"] = written["field"]["rope_delta"]
    document = {
        "max_new_tokens": NUM_NEW,
        "eos_token_id": eos_ids,
        "batch_cases": [["words", "four", "banner"], ["long", "twin"]],
        "prefix_families": families,
        "cases": list(written.values()),
    }
    (folder / "cases.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    write_set(Path(sys.argv[1]))
