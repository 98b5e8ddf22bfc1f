"""Pocket checkpoints as files: their tokenizers, their shapes, and how a trained model becomes a folder.

In: the words that questions use; a trained model. Out: a fresh model with its tokenizer; a checkpoint folder in the
layout of the real one, marked ``pocket`` in ``glowl.json`` and read by the engines' ordinary loaders.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engines.pocket.files import (
    GLM_TOKENS,
    GLM_VISIBLE,
    OWL2_CONTEXT_TOKENS,
    glm_config,
    save_glm_tokenizer,
    save_owl2_tokenizer,
    write_glm_preprocessor,
    write_json,
    write_owl2_settings,
)
from engines.pocket.random_tiny import train_sentencepiece

EngineName = Literal["glm", "owl2"]
VARIANT = "pocket"

GLM_SIDE = 96
"""Side of a square picture after GLM's preprocessing, in pixels; others keep their proportions and about this area."""

OWL2_SIDE = 96
"""Side of every picture after Owl2's preprocessing, in pixels; others are squeezed into a square."""

PATCH = 8
WEIGHTS = "model.safetensors"
_TOKENIZER_FILES: dict[EngineName, tuple[str, ...]] = {
    "glm": ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"),
    "owl2": ("special_tokens_map.json", "tokenizer.model", "tokenizer_config.json"),
}

# Words beside those of the sampled questions: what a person may type around them, and what documents say.
_MORE_ENGLISH = (
    "a an the and or not of in on at to from with without for by as is are was do does did can could would will there "
    "here this that these those it its they you your I me my we please tell say name look see show give describe list "
    "answer question what which who where when how why many much more most less least fewer fewest total sum together "
    "both all any each every same different other another only exactly equal than shows Look The then between next "
    "one two three four five six seven eight nine ten zero none first second third fourth last image images picture "
    "pictures photo photos object objects thing things item items shape shapes colour color colours colors size sizes "
    "number count left right top bottom above below under over center middle corner side half row column near large "
    "larger largest small smaller smallest medium big bigger biggest tiny USER ASSISTANT price prices cost now "
    "original current sale discount poster chart bar bars value values tallest shortest highest lowest receipt shop "
    "store paid pay change cash card date tax hello hi hey thanks thank good morning evening bye help yes no contain "
    "contains has have having appear appears visible sentence"
)
_MORE_CHINESE = (
    "的一是在不了有和人这中大为上个我以要他来用们到出就分对成会可多能下子说面方后种里如小现加量都两好点看那些原价"
    "格样它吗呢哪几什么谁图片张形状颜色数边角心圆三十字星菱左右间顶底部旁比更最长高低远近同请问告诉描述回答总共合计"
    "实付应收找零商店名称日期单票海报柱值第四五六七八九百千元块钱优惠折扣促销特售卖买打开关闭你您好谢再见早晚安帮助"
)


def build_words(seed: int = 0, per_type: int = 150) -> tuple[list[str], list[str]]:
    """Collect the words of many sampled questions and answers, in Chinese and English.

    Returns:
        Chinese words and characters, and English words and signs, each sorted.
    """
    from training.pocket.scenes import TYPES, sample_question
    from training.pocket.scenes.outside_words import HONEST
    from training.pocket.scenes.words import COLOURS, KINDS, REGIONS, say

    rng = random.Random(seed)  # noqa: S311 - not for secrets
    texts = [_MORE_ENGLISH, *_MORE_CHINESE, *HONEST.values()]
    for name, info in TYPES.items():
        if info.is_honest:  # their words are to stay unknown
            continue
        for lang in sorted({lang for langs in info.langs.values() for lang in langs}):
            for _ in range(per_type):
                question = sample_question(rng, name, lang)
                texts += [question.text, question.answer]
    chinese = {say(name, "zh") for name in (*COLOURS, *KINDS, *REGIONS)}
    english: set[str] = set()
    for text in texts:
        chinese.update(re.findall(r"[\u3400-\u9fff]", text))
        english.update(re.findall(r"[A-Za-z]+", text))
    english |= {word.lower() for word in english}
    return sorted(chinese), sorted(english)


# -- tokenizers -------------------------------------------------------------------------------------------------------


def make_glm_tokenizer(chinese: Sequence[str], english: Sequence[str]) -> Any:
    """Make a byte-level BPE tokenizer in which the given words are whole; digits and other signs stand alone.

    Everything else falls back to bytes. Special tokens are the real model's, in their order.

    Returns:
        A `tokenizers.Tokenizer`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    phrases = "|".join(sorted((word for word in chinese if len(word) > 1), key=len, reverse=True))
    split = rf"{phrases}|\p{{Han}}| ?[A-Za-z]+|\p{{N}}|\s| ?[^\s\p{{L}}\p{{N}}]|\p{{L}}"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [*chinese, *english, *(f" {word}" for word in english), *"，。？！、：；¥￥（）“”…", " ¥", " $"]
    trainer = trainers.BpeTrainer(
        vocab_size=8192, min_frequency=0, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens(
        [AddedToken(token, special=token not in GLM_VISIBLE, normalized=False) for token in GLM_TOKENS]
    )
    return tokenizer


def make_owl2_tokenizer(english: Sequence[str]) -> bytes:
    """Make a LLaMA-like sentencepiece model in which the given words are whole pieces.

    Returns:
        The bytes of ``tokenizer.model``.
    """
    signs = ["?", "!", ",", ".", ":", ";", "'", '"', "-", "$", "¥", "(", ")", "/", "%", "+", "=", *"0123456789"]
    return train_sentencepiece([*english, *signs], 6000, is_exact=False)


def write_tokenizer(engine: EngineName, folder: Path) -> None:
    """Make an engine's tokenizer and write its files."""
    folder.mkdir(parents=True, exist_ok=True)
    chinese, english = build_words()
    if engine == "glm":
        save_glm_tokenizer(make_glm_tokenizer(chinese, english), folder)
    else:
        save_owl2_tokenizer(make_owl2_tokenizer(english), folder)


def copy_tokenizer(engine: EngineName, checkpoint: Path, folder: Path) -> None:
    """Take over an engine's tokenizer from a checkpoint, without the rest of it.

    Raises:
        FileNotFoundError: the folder holds no tokenizer of this engine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER_FILES[engine]:
        shutil.copyfile(checkpoint / name, folder / name)


# -- models -----------------------------------------------------------------------------------------------------------


def new_model(engine: EngineName, tokenizer_folder: Path, seed: int = 0) -> Any:
    """Make a fresh model of the true architecture for a tokenizer.

    Args:
        engine: which of the two.
        tokenizer_folder: from `write_tokenizer`.
        seed: of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _new_glm(tokenizer_folder) if engine == "glm" else _new_owl2(tokenizer_folder)


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Give a model of the same shapes the weights of a checkpoint.

    Raises:
        RuntimeError: names or shapes differ.
    """
    model.load_state_dict({name: value.float() for name, value in load_file(checkpoint / WEIGHTS).items()})


def _new_glm(folder: Path) -> Any:
    from transformers import AutoTokenizer, Glm4vForConditionalGeneration

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    to_id = tokenizer.convert_tokens_to_ids
    width = 160
    config = glm_config(
        {token: to_id(token) for token in GLM_TOKENS},
        {
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": width,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 5,
        },
        {
            "depth": 4,
            "hidden_size": 128,
            "num_heads": 4,
            "intermediate_size": 320,
            "out_hidden_size": width,
            "image_size": GLM_SIDE,
            "patch_size": PATCH,
        },
    )
    stop_ids = config.text_config.eos_token_id
    model = Glm4vForConditionalGeneration(config)
    _initialise(model)
    with torch.no_grad():
        table = model.model.visual.embeddings.position_embedding.weight
        table.copy_(0.5 * _grid_sincos(GLM_SIDE // PATCH, table.shape[1]))
        for name, parameter in model.named_parameters():
            # Each layer's output is normed; at 1 the first layers would drown the words.
            if name.endswith(("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight")):
                parameter.fill_(0.5)
    model.generation_config.eos_token_id = stop_ids
    model.generation_config.pad_token_id = stop_ids[0]
    return model


def _new_owl2(folder: Path) -> Any:
    from engines.owl2.config import MPLUGOwl2Config
    from engines.owl2.model import MPLUGOwl2ForConditionalGeneration
    from engines.owl2.tokenizer import Owl2Tokenizer

    width, side = 128, OWL2_SIDE // PATCH
    vocab_size = -(-Owl2Tokenizer.from_folder(folder).vocab_size // 64) * 64
    config = MPLUGOwl2Config(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=5,
        max_position_embeddings=OWL2_CONTEXT_TOKENS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        image_aspect_ratio="resize",
        visual_config={
            "visual_model": {
                "hidden_size": width,
                "intermediate_size": 320,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": OWL2_SIDE,
                "patch_size": PATCH,
            },
            "visual_abstractor": {
                "hidden_size": width,
                "encoder_hidden_size": width,
                "intermediate_size": 256,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_learnable_queries": (side // 2) ** 2,
                "grid_size": side,
            },
        },
    )
    model = MPLUGOwl2ForConditionalGeneration(config)
    _initialise(model)
    _localise(model.model.visual_abstractor, side)
    with torch.no_grad():
        table = model.model.vision_model.embeddings.position_embedding
        table[0, 1:] = 0.5 * _grid_sincos(side, width)
    model.generation_config.bos_token_id = 1
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    return model


def _initialise(model: Any) -> None:
    """Give matrices a unit gain, and words a size that the first layers cannot drown: 0.02 is for wide models."""
    num_layers = model.config.get_text_config().num_hidden_layers
    embeddings = {id(model.get_input_embeddings().weight)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            if id(parameter) in embeddings:
                parameter.normal_(std=0.5)
            elif name == "lm_head.weight":
                parameter.normal_(std=0.02)
            elif ("embed" in name and "patch" not in name) or "token" in name or name.endswith("vit_eos"):
                parameter.normal_(std=0.5)
            else:
                gain = (2 * num_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                if "merger" in name:
                    gain = 1.0
                parameter.normal_(std=gain * parameter[0].numel() ** -0.5)


def _grid_sincos(side: int, width: int) -> Tensor:
    """(side * side, width) sines and cosines of row and column, row by row."""
    place = torch.arange(side, dtype=torch.float32)
    omega = 20.0 ** (-torch.arange(width // 4) / (width // 4))
    angles = place[:, None] * omega
    table = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows = table.repeat_interleave(side, dim=0)
    return torch.cat([rows, table.repeat(side, 1)], dim=1)


def _localise(abstractor: Any, side: int) -> None:
    """Let each query start by looking at its own two-by-two patches: found by training too, but an hour later."""
    from engines.owl2.abstractor import key_positions, query_positions

    num_queries, width = abstractor.query_embeds.shape[1:]
    per_side = int(num_queries**0.5)
    keys = key_positions(side, width)[1:].view(side, side, width).float()
    centres = keys.view(per_side, 2, per_side, 2, width).mean(dim=(1, 3)).flatten(0, 1)
    with torch.no_grad():
        wanted = 3.0 * (centres - centres.mean(dim=0)) - query_positions(num_queries, width).float()
        abstractor.query_embeds[0] = wanted
        for layer in abstractor.encoder.layers:
            attention = layer.crossattention.attention
            heads = attention.num_heads
            # Every head gets columns and rows alike, and every fourth frequency of each.
            order = torch.arange(width).view(-1, heads).T.flatten()
            spread = torch.eye(width)[order]
            noise = width**-0.5
            attention.query.weight.copy_(2.0 * spread + 0.3 * noise * torch.randn(width, width))
            attention.key.weight.copy_(2.0 * spread + 0.3 * noise * torch.randn(width, width))


# -- checkpoint folders -----------------------------------------------------------------------------------------------


def save_checkpoint(engine: EngineName, model: nn.Module, tokenizer_folder: Path, folder: Path, card: str) -> None:
    """Write a whole checkpoint folder in bfloat16, whole or not at all; an older one is replaced.

    Args:
        engine: which of the two.
        model: its weights are not changed.
        tokenizer_folder: from `write_tokenizer`.
        folder: where the checkpoint goes.
        card: text of its ``README.md``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        state = {
            name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in model.state_dict().items()
        }
        model.save_pretrained(unfinished, state_dict=state)  # type: ignore[operator]
        config = json.loads((unfinished / "config.json").read_text("utf-8"))
        config["dtype"] = "bfloat16"
        for part in ("text_config", "vision_config"):
            if isinstance(config.get(part), dict):
                config[part]["dtype"] = "bfloat16"
        write_json(unfinished / "config.json", config)
        for file in sorted(tokenizer_folder.iterdir()):
            if file.is_file():
                shutil.copyfile(file, unfinished / file.name)
        write_preprocessor(engine, unfinished)
        write_json(unfinished / "glowl.json", {"variant": VARIANT})
        (unfinished / "README.md").write_text(card, "utf-8")
        licence = Path(__file__).resolve().parents[2] / "LICENSE"
        if licence.is_file():
            shutil.copyfile(licence, unfinished / "LICENSE")
        for file in unfinished.iterdir():
            file.chmod(0o644)  # engines may run as another user
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_preprocessor(engine: EngineName, folder: Path) -> None:
    """Write ``preprocessor_config.json``, and what else an engine's loader reads beside its weights."""
    if engine == "glm":
        # Pixels of two frames. Both bounds lie so close that a square of any size becomes 96x96.
        write_glm_preprocessor(
            folder, PATCH, {"shortest_edge": 2 * (GLM_SIDE - 1) ** 2, "longest_edge": 2 * (GLM_SIDE + 2) ** 2}
        )
    else:
        write_owl2_settings(folder, OWL2_SIDE)


def num_parameters(parameters: Iterable[Tensor]) -> int:
    """Count weights."""
    return sum(parameter.numel() for parameter in parameters)
