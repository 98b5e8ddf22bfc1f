"""How much memory a model will need, told from its ``config.json`` before anything is loaded; imports no torch.

In: the config of either architecture, a dtype, a quantization. Out: bytes of weights, of KV cache and of activations.
The number of parameters is exact; activations are an estimate of the largest tensors alive at one time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})
QUANTIZATIONS = ("none", "int8", "int4")

# NF4: 4 bits, an 8-bit scale for 64 weights, a float32 scale for 256 of those scales (arXiv:2305.14314).
_NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
_INT8_SCALE_BYTES = 4
# A process that has imported torch and transformers; on a GPU, its context and the libraries' workspaces.
PROCESS_BYTES = 1_000_000_000
# Tokens that the conversations under way keep in each engine's cache, together: four full ones of Owl2's.
SHARED_TOKENS = 8192
# Of a GPU, for all engines on it: the driver and other programs have the rest.
USABLE_SHARE = 0.92
# Rows that one pass over a prompt is cut into; longer prompts need no more activations.
_PREFILL_ROWS = 2048

# What a config needs to say, for models that are not downloaded yet.
PUBLISHED_CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "glm": {
            "model_type": "glm4v",
            "tie_word_embeddings": False,
            "text_config": {
                "hidden_size": 4096,
                "intermediate_size": 13696,
                "num_hidden_layers": 40,
                "num_attention_heads": 32,
                "num_key_value_heads": 2,
                "vocab_size": 151552,
                "max_position_embeddings": 131072,
            },
            "vision_config": {
                "depth": 24,
                "hidden_size": 1536,
                "intermediate_size": 13696,
                "out_hidden_size": 4096,
                "in_channels": 3,
                "image_size": 336,
                "patch_size": 14,
                "temporal_patch_size": 2,
                "spatial_merge_size": 2,
            },
        },
        "owl2": {
            "model_type": "mplug_owl2",
            "tie_word_embeddings": False,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
            "visual_config": {
                "visual_model": {
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": 24,
                    "image_size": 448,
                    "patch_size": 14,
                },
                "visual_abstractor": {
                    "hidden_size": 1024,
                    "intermediate_size": 2816,
                    "num_hidden_layers": 6,
                    "num_learnable_queries": 64,
                },
            },
        },
    }
)


class UnknownModelError(ValueError):
    """A config that is of neither architecture, or lacks a key; the message names it."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model's config decides about memory.

    Attributes:
        num_parameters: all weights.
        num_decoder_weights: those in the decoder's matrices, which quantization makes smaller.
        num_decoder_rows: output rows of those matrices, each of which has a scale under int8.
        num_kv_values: numbers that the cache keeps per token: keys and values of all layers.
        num_prefill_values: of the largest layer's activations, per row of the sequence.
        num_picture_values: activations of the vision tower for the largest picture.
        context_tokens: most tokens of one conversation.
    """

    num_parameters: int
    num_decoder_weights: int
    num_decoder_rows: int
    num_kv_values: int
    num_prefill_values: int
    num_picture_values: int
    context_tokens: int

    def weight_bytes(self, dtype: str, quantization: str = "none") -> int:
        """Size of the weights; see `predict` for the arguments."""
        wide = DTYPE_BYTES[dtype]
        kept = self.num_parameters - self.num_decoder_weights
        if quantization == "int8":
            return kept * wide + self.num_decoder_weights + self.num_decoder_rows * _INT8_SCALE_BYTES
        if quantization == "int4":
            return kept * wide + round(self.num_decoder_weights * _NF4_BYTES)
        return self.num_parameters * wide

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Size of one token's keys and values, all layers together."""
        return self.num_kv_values * DTYPE_BYTES[dtype]


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """A prediction.

    Attributes:
        weights_bytes: the weights, as they lie in memory.
        kv_bytes: the cache of the tokens asked for.
        activations_bytes: what a prefill or a picture takes while it runs; an estimate.
    """

    weights_bytes: int
    kv_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All together."""
        return self.weights_bytes + self.kv_bytes + self.activations_bytes


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """Work out the shape of a model.

    Args:
        config: the content of ``config.json``.

    Raises:
        UnknownModelError: if it is of neither architecture, or lacks a key.
    """
    model_type = config.get("model_type")
    try:
        if model_type == "mplug_owl2":
            return _owl2_shape(config)
        if model_type in ("glm4v", "glm46v"):
            return _glm_shape(config)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UnknownModelError(f"config of a {model_type}: {error!r}") from error
    raise UnknownModelError(f"model_type is {model_type!r}, neither mplug_owl2 nor glm4v")


def predict(shape: ModelShape, *, dtype: str, quantization: str = "none", num_tokens: int) -> MemoryNeed:
    """Predict the memory of one engine.

    Args:
        shape: from `read_shape`.
        dtype: ``float32``, ``bfloat16`` or ``float16``; of everything that is not quantized.
        quantization: ``none``, ``int8`` or ``int4``, of the decoder's matrices.
        num_tokens: that all conversations under way keep in the cache together.

    Raises:
        ValueError: for another dtype or quantization.
    """
    if dtype not in DTYPE_BYTES or quantization not in QUANTIZATIONS:
        raise ValueError(f"unknown dtype {dtype!r} or quantization {quantization!r}")
    rows = min(_PREFILL_ROWS, shape.context_tokens)
    return MemoryNeed(
        weights_bytes=shape.weight_bytes(dtype, quantization),
        kv_bytes=shape.kv_bytes_per_token(dtype) * num_tokens,
        activations_bytes=max(shape.num_prefill_values * rows, shape.num_picture_values) * DTYPE_BYTES[dtype],
    )


def gpu_share(
    name: str, shape: ModelShape, gpu_bytes: int, *, dtype: str = "bfloat16", quantization: str = "none"
) -> float:
    """Choose how much of a GPU one engine of the pair may take by default.

    It follows from both models' configs and the card alone, so that it does not matter which engine starts first. Where
    the two do not fit one card together, each is taken to have one of its own.

    Args:
        name: ``glm`` or ``owl2``; the other is taken to be as published, in the same dtype and quantization.
        shape: of this engine's model.
        gpu_bytes: memory of the card.
        dtype: see `predict`.
        quantization: likewise.
    """
    other = next(read_shape(config) for engine, config in PUBLISHED_CONFIGS.items() if engine != name)
    own_bytes, other_bytes = (
        PROCESS_BYTES
        + predict(
            each, dtype=dtype, quantization=quantization, num_tokens=min(SHARED_TOKENS, each.context_tokens)
        ).total_bytes
        for each in (shape, other)
    )
    if own_bytes + other_bytes > USABLE_SHARE * gpu_bytes:
        return USABLE_SHARE
    return USABLE_SHARE * own_bytes / (own_bytes + other_bytes)


def _head_weights(config: Mapping[str, Any], vocab_size: int, hidden: int) -> int:
    """The embeddings, the head unless it is the same matrix, and the final norm."""
    return vocab_size * hidden * (1 if config.get("tie_word_embeddings") else 2) + hidden


def _owl2_shape(config: Mapping[str, Any]) -> ModelShape:
    hidden, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    # Queries and output once, keys and values twice, three matrices of the MLP; norms, two of them twice.
    decoder_weights = layers * (6 * hidden * hidden + 3 * hidden * wide)
    decoder = decoder_weights + layers * 4 * hidden

    vision = config["visual_config"]["visual_model"]
    size, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    num_rows = (vision["image_size"] // patch) ** 2 + 1
    tower = size + vision.get("num_channels", 3) * patch * patch * size + num_rows * size + 4 * size
    tower += vision["num_hidden_layers"] * (
        4 * size + (size + 1) * 3 * size + (size + 1) * size + (size + 1) * inner + (inner + 1) * size
    )

    abstractor = config["visual_config"]["visual_abstractor"]
    width, middle, queries = (
        abstractor["hidden_size"],
        abstractor["intermediate_size"],
        abstractor["num_learnable_queries"],
    )
    reader = queries * width + (width + 1) * hidden + hidden
    reader += abstractor["num_hidden_layers"] * (
        6 * width + 4 * (width + 1) * width + 2 * (width + 1) * middle + (middle + 1) * width + 2 * middle
    )
    return ModelShape(
        num_parameters=_head_weights(config, config["vocab_size"], hidden) + decoder + tower + reader,
        num_decoder_weights=decoder_weights,
        num_decoder_rows=layers * (7 * hidden + 2 * wide),
        num_kv_values=2 * layers * hidden,
        num_prefill_values=2 * wide + 4 * hidden,
        num_picture_values=num_rows * (2 * inner + 2 * size),
        context_tokens=config.get("max_position_embeddings", 2048),
    )


def _glm_shape(config: Mapping[str, Any]) -> ModelShape:
    text = config["text_config"]
    hidden, wide, layers = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    keys = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    decoder_weights = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * wide)
    # Biases of queries, keys and values, and four norms.
    decoder = decoder_weights + layers * (hidden + 2 * keys + 4 * hidden)

    vision = config["vision_config"]
    size, out, patch, merge = (
        vision["hidden_size"],
        vision["out_hidden_size"],
        vision["patch_size"],
        vision["spatial_merge_size"],
    )
    pixels = vision.get("in_channels", 3) * vision["temporal_patch_size"] * patch * patch
    tower = (pixels + 1) * size + (vision["image_size"] // patch) ** 2 * size + 2 * size
    tower += vision["depth"] * (2 * size + 4 * size * size + 3 * size * out)
    tower += (size * merge * merge + 1) * out + out * out + 2 * out + 3 * out * vision["intermediate_size"]
    # The preprocessor's bound of 9,633,792 px counts the one frame twice.
    num_patches = 9_633_792 // vision["temporal_patch_size"] // (patch * patch)
    return ModelShape(
        num_parameters=_head_weights(config, text["vocab_size"], hidden) + decoder + tower,
        num_decoder_weights=decoder_weights,
        num_decoder_rows=layers * (3 * hidden + 2 * keys + 2 * wide),
        num_kv_values=2 * layers * keys,
        num_prefill_values=3 * wide + 4 * hidden,
        num_picture_values=num_patches * (2 * out + 4 * size),
        context_tokens=text.get("max_position_embeddings", 131072),
    )
