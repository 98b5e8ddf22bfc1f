"""Checkpoints and questions for comparing vLLM with our own model; heads 32 wide, which vLLM's CPU attention has.

In: a folder. Out: checkpoint folders, conversations, and what our own model answers to them, greedily, as ids.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from engines.base import GenerationRequest, Message, Part, SamplingParams, TextPart
from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration
from engines.owl2.requests import Plan, Preparation
from engines.pocket.files import write_owl2_settings
from engines.pocket.random_tiny import make_owl2
from tests.support.pictures import to_part

POCKET = Path(__file__).parents[2] / "engines/pocket/weights/owl2"
MAX_TOKENS = 24
_SIDE, _PATCH = 56, 14


def make_golden_like(folder: Path, tokenizer_from: Path) -> Path:
    """Write a model of the golden set's shape with wider heads.

    Its norms and biases are random too: with neutral ones, a picture's rows could have the text's norms unnoticed.
    """
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MPLUGOwl2Config(
        vocab_size=1408,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        visual_config={
            "visual_model": {**vision, "intermediate_size": 128, "image_size": _SIDE, "patch_size": _PATCH},
            "visual_abstractor": {
                **vision,
                "encoder_hidden_size": 32,
                "intermediate_size": 88,
                "num_learnable_queries": 16,
                "grid_size": _SIDE // _PATCH,
            },
        },
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        model = MPLUGOwl2ForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                is_table = any(word in name for word in ("embed", "token", "vit_eos"))
                parameter.normal_(std=1.0 if is_table else parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    # As published: the config names no architecture.
    file = folder / "config.json"
    file.write_text("\n".join(line for line in _without_architectures(file.read_text())))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer_from / name).exists():
            shutil.copy(tokenizer_from / name, folder)
    write_owl2_settings(folder, _SIDE)
    return folder


def make_checkpoints(folder: Path) -> dict[str, Path]:
    """Make those that are not in the repository; name to folder."""
    tiny = folder / "random-tiny"
    make_owl2(tiny)
    (folder / "golden-like").mkdir()
    return {
        "golden-like": make_golden_like(folder / "golden-like", tiny),
        "random-tiny": tiny,
        "pocket": POCKET,
    }


def picture(color: str, size: tuple[int, int] = (64, 48)) -> Part:
    return to_part(Image.new("RGB", size, color))


def conversations() -> dict[str, tuple[Message, ...]]:
    """Name to messages; pictures at each place that a prompt can have them."""
    red, blue, grey = picture("red"), picture("blue", (30, 70)), picture("grey")

    def user(*parts: Part | str) -> Message:
        return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))

    said = Message("assistant", (TextPart("A red square."),))
    return {
        "text": (user("What is in the picture?"),),
        "text, long": (user("Describe the chart. The price of apples rises from ten to twenty, then falls. " * 4),),
        "text, Chinese": (user("图片里有什么？"),),
        "one picture": (user(red, "What is in the picture?"),),
        "one picture, Chinese": (user(blue, "图中的圆形是什么颜色？"),),
        "two pictures": (user(red, blue, "Which of the two images shows more objects?"),),
        "two pictures, text between": (user("First: ", red, " Second: ", blue, " Compare."),),
        "a picture in the second turn": (user("Hello."), said, user(grey, "And this?")),
        "two turns, a picture each": (user(red, "What is it?"), said, user(blue, "And this one?")),
    }


def ask(messages: Sequence[Message], caller: str = "", max_tokens: int = MAX_TOKENS) -> GenerationRequest:
    return GenerationRequest(tuple(messages), SamplingParams(max_tokens=max_tokens), caller=caller)


class OurModel:
    """Answers as the implementation that is held against the reference's golden set does, one request at a time."""

    def __init__(self, folder: Path) -> None:
        self.config = MPLUGOwl2Config.from_pretrained(folder)
        self.preparation = Preparation.of_checkpoint(folder, self.config, "float32")
        self._model = MPLUGOwl2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def plan(self, messages: Sequence[Message]) -> tuple[Plan, list[torch.Tensor]]:
        plan = self.preparation.plan(ask(messages))
        return plan, [self.preparation.to_pixels(image) for image in plan.images]

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the greedy answer, the one that ends it included."""
        plan, pixels = self.plan(messages)
        inputs = {"pixel_values": torch.cat(pixels)} if pixels else {}
        prompt = torch.tensor([plan.ids])
        with torch.inference_mode():
            output = self._model.generate(
                prompt, **inputs, max_new_tokens=MAX_TOKENS, do_sample=False, eos_token_id=2, pad_token_id=0
            )
        return output[0, prompt.shape[1] :].tolist()


def _without_architectures(text: str) -> list[str]:
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if '"architectures": [' in line), None)
    return lines if start is None else [*lines[:start], *lines[start + 3 :]]
