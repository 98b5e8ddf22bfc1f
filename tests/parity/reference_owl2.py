"""mPLUG-Owl2 written out once more, as plain functions over a dict of tensors: slow, one sample at a time, no tricks.

In: weights under their published names, the ``config.json`` as a plain dict, ids in which -200 stands for an image, and
pixels. Out: logits. It shares no code with the engine, which is the point: the tests compare both on shapes that no
golden set has, also where there is no golden set. On the golden set it agrees with the reference, which is tested too.

Source: mPLUG-Owl2, arXiv:2311.04257; X-PLUG/mPLUG-Owl@0f3068f visual_encoder.py, modeling_mplug_owl2.py, multiway.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Config = Mapping[str, Any]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(weight: Tensor, x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, hidden: Tensor | None = None) -> Tensor:
    """Attend head by head.

    Args:
        query: (S, D).
        key: (K, D).
        value: (K, D).
        num_heads: whose columns lie side by side.
        hidden: (S, K), True where a query may not look.
    """
    width = query.shape[1] // num_heads
    outputs = []
    for head in range(num_heads):
        columns = slice(head * width, (head + 1) * width)
        scores = query[:, columns] @ key[:, columns].T / math.sqrt(width)
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        outputs.append(scores.softmax(-1) @ value[:, columns])
    return torch.cat(outputs, dim=1)


def see(w: Weights, config: Config, image: Tensor) -> Tensor:
    """Run the vision tower on one image; (3, S, S) to (P + 1, D)."""
    patch, eps, heads = config["patch_size"], config["layer_norm_eps"], config["num_attention_heads"]
    prefix = "model.vision_model"
    kernel = w[f"{prefix}.embeddings.patch_embed.weight"].flatten(1)
    rows = [w[f"{prefix}.embeddings.cls_token"][0, 0]]
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            rows.append(kernel @ image[:, top : top + patch, left : left + patch].flatten())
    x = torch.stack(rows) + w[f"{prefix}.embeddings.position_embedding"][0]
    x = layer_norm(w, f"{prefix}.embeddings.pre_layernorm", x, eps)
    for index in range(config["num_hidden_layers"]):
        layer = f"{prefix}.encoder.layers.{index}"
        fused = linear(w, f"{layer}.self_attn.query_key_value", layer_norm(w, f"{layer}.input_layernorm", x, eps))
        thirds = fused.chunk(3 * heads, dim=1)  # query, key, value of the first head, then those of the second, ...
        query, key, value = (torch.cat(thirds[which::3], dim=1) for which in range(3))
        x = x + linear(w, f"{layer}.self_attn.dense", attention(query, key, value, heads))
        inner = linear(w, f"{layer}.mlp.fc1", layer_norm(w, f"{layer}.post_attention_layernorm", x, eps))
        x = x + linear(w, f"{layer}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    return layer_norm(w, f"{prefix}.post_layernorm", x, eps)


def sincos(position: int, width: int) -> list[float]:
    angles = [position / 10000 ** (i / (width // 2)) for i in range(width // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


def abstract(w: Weights, config: Config, seen: Tensor) -> Tensor:
    """Run the visual abstractor on one image; (P + 1, D) to (Q + 1, H)."""
    heads, width, grid = config["num_attention_heads"], config["hidden_size"], config["grid_size"]
    query_table = torch.tensor([sincos(p, width) for p in range(config["num_learnable_queries"])])
    grid_table = [sincos(column, width // 2) + sincos(row, width // 2) for row in range(grid) for column in range(grid)]
    key_table = torch.cat([query_table, torch.zeros(1, width), torch.tensor(grid_table)])
    x = w["model.visual_abstractor.query_embeds"][0]
    for index in range(config["num_hidden_layers"]):
        block = f"model.visual_abstractor.encoder.layers.{index}.crossattention"
        x = layer_norm(w, f"{block}.norm1", x, 1e-5)
        source = torch.cat([x, layer_norm(w, f"{block}.normk", seen, 1e-5)])
        read = attention(
            linear(w, f"{block}.attention.query", x + query_table),
            linear(w, f"{block}.attention.key", source + key_table),
            linear(w, f"{block}.attention.value", source),
            heads,
        )
        y = x + linear(w, f"{block}.output.out_proj", read)
        n = layer_norm(w, f"{block}.output.norm2", y, 1e-5)
        gated = silu(linear(w, f"{block}.output.mlp.w1", n)) * linear(w, f"{block}.output.mlp.w3", n)
        normed = layer_norm(w, f"{block}.output.mlp.ffn_ln", gated, config["layer_norm_eps"])
        x = y + linear(w, f"{block}.output.mlp.w2", normed)
    return torch.cat([linear(w, "model.visual_abstractor.visual_fc", x), w["model.visual_abstractor.vit_eos"][0]])


def insert(w: Weights, config: Config, ids: list[int], images: Tensor) -> tuple[Tensor, Tensor]:
    """Put images into the text; rows (L, H), and True for those of images (L,)."""
    parts = config["visual_config"]
    remaining = iter(images)
    rows, is_image = [], []
    for token_id in ids:
        if token_id == -200:
            new = abstract(w, parts["visual_abstractor"], see(w, parts["visual_model"], next(remaining)))
        else:
            new = w["model.embed_tokens.weight"][token_id][None]
        rows.append(new)
        is_image += [token_id == -200] * len(new)
    return torch.cat(rows), torch.tensor(is_image)


def rotate(x: Tensor, num_heads: int, theta: float) -> Tensor:
    """Turn each head's columns i and i + half by an angle of the row's number; (L, H)."""
    width = x.shape[1] // num_heads
    half = width // 2
    rates = torch.tensor([theta ** (-2 * i / width) for i in range(half)], dtype=torch.float64)
    angles = torch.arange(len(x), dtype=torch.float64)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    outputs = []
    for head in x.split(width, dim=1):
        first, second = head[:, :half], head[:, half:]
        outputs += [first * cos - second * sin, second * cos + first * sin]
    return torch.cat(outputs, dim=1)


def forward(w: Weights, config: Config, ids: list[int], images: Tensor) -> Tensor:
    """Compute the logits of one sample.

    Args:
        w: weights under their published names.
        config: as in ``config.json``.
        ids: -200 for an image.
        images: (N, 3, S, S), in the order of their markers.

    Returns:
        (L, V), L the length after insertion.
    """
    x, is_image = insert(w, config, ids, images)
    heads, eps, theta = config["num_attention_heads"], config["rms_norm_eps"], config["rope_theta"]
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)

    def by_modality(of: Any, name: str, rows: Tensor) -> Tensor:
        text, image = (of(f"{name}.multiway.{way}.weight", rows) for way in range(2))
        return torch.where(is_image[:, None], image, text)

    def norm(name: str, rows: Tensor) -> Tensor:
        return rms_norm(w[name], rows, eps)

    def project(name: str, rows: Tensor) -> Tensor:
        return rows @ w[name].T

    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        n = by_modality(norm, f"{layer}.input_layernorm", x)
        query = rotate(linear(w, f"{layer}.self_attn.q_proj", n), heads, theta)
        key = rotate(by_modality(project, f"{layer}.self_attn.k_proj", n), heads, theta)
        value = by_modality(project, f"{layer}.self_attn.v_proj", n)
        x = x + linear(w, f"{layer}.self_attn.o_proj", attention(query, key, value, heads, future))
        n = by_modality(norm, f"{layer}.post_attention_layernorm", x)
        gated = silu(linear(w, f"{layer}.mlp.gate_proj", n)) * linear(w, f"{layer}.mlp.up_proj", n)
        x = x + linear(w, f"{layer}.mlp.down_proj", gated)
    return linear(w, "lm_head", rms_norm(w["model.norm.weight"], x, eps))


def greedy(w: Weights, config: Config, ids: list[int], images: Tensor, num_tokens: int) -> list[int]:
    """Choose the best token again and again, from scratch each time."""
    answer: list[int] = []
    for _ in range(num_tokens):
        answer.append(int(forward(w, config, [*ids, *answer], images)[-1].argmax()))
    return answer
