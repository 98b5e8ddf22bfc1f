"""A tiny random mPLUG-Owl2 checkpoint folder, written by the tests themselves: no weights, no network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import sentencepiece
import torch
from PIL import Image

from engines.base import ImagePart
from engines.owl2 import MPLUGOwl2Config, MPLUGOwl2ForConditionalGeneration

SENTENCES = [
    "USER: What is in the picture? ASSISTANT: An owl sits on a red square.",
    "USER: Compare both images. ASSISTANT: The first is brighter than the second one.",
    "请描述这张图片。苹果在桌子上。",
    "one two three four five six seven eight nine ten",
]


def tiny_config(**changes: object) -> MPLUGOwl2Config:
    """A model of the true shape with three decoder layers and 5 rows per image."""
    values: dict[str, object] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "visual_config": {
            "visual_model": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 7,
            },
            "visual_abstractor": {
                "hidden_size": 16,
                "encoder_hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_learnable_queries": 4,
                "grid_size": 4,
            },
        },
    }
    return MPLUGOwl2Config(**{**values, **changes})


def write_tokenizer(folder: Path) -> None:
    """Train a sentencepiece model of LLaMA's kind: BPE, byte fallback, no normalisation."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=380,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))


def write_checkpoint(folder: Path, config: MPLUGOwl2Config) -> None:
    """Write everything an engine needs."""
    torch.manual_seed(0)
    model = MPLUGOwl2ForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    write_tokenizer(folder)
    preprocessor = {
        "crop_size": config.vision.image_size,
        "size": config.vision.image_size,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "glowl.json").write_text(json.dumps({"variant": "random-tiny"}))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config() -> MPLUGOwl2Config:
    return tiny_config()


@pytest.fixture
def make_config() -> Callable[..., MPLUGOwl2Config]:
    return tiny_config


@pytest.fixture
def model(config: MPLUGOwl2Config) -> MPLUGOwl2ForConditionalGeneration:
    torch.manual_seed(0)
    return MPLUGOwl2ForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owl2")
    write_checkpoint(folder, tiny_config())
    return folder


@pytest.fixture
def encode_image() -> Callable[..., ImagePart]:
    """Encode a Pillow image as a part of a message."""

    def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> ImagePart:
        file = io.BytesIO()
        image.save(file, file_format, **options)
        data = file.getvalue()
        return ImagePart(data, f"image/{file_format.lower()}", sha256(data).hexdigest())

    return encode
