"""The small files of a checkpoint folder, alike for trained and random pocket models: tokenizers, preprocessors.

In: a tokenizer, the sizes of a model and of a picture. Out: files and configs as the real checkpoints have them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GLM_CONTEXT_TOKENS = 8192
OWL2_CONTEXT_TOKENS = 2048
_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

# fmt: off
# In the order of the real vocabulary.
GLM_TOKENS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
    "<|begin_of_audio|>", "<|end_of_audio|>", "<|begin_of_transcription|>", "<|end_of_transcription|>",
    "<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>",
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
    "/nothink", "<|begin_of_box|>", "<|end_of_box|>", "<|image|>", "<|video|>",
)
# Decoding keeps these; the rest are special.
GLM_VISIBLE = frozenset({
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|begin_of_box|>", "<|end_of_box|>",
})
# fmt: on


def save_glm_tokenizer(backend: Any, folder: Path) -> None:
    """Write a `tokenizers.Tokenizer` that has `GLM_TOKENS`, with GLM's conversation format in our own words."""
    from transformers import PreTrainedTokenizerFast

    end_of_text = GLM_TOKENS[0]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=end_of_text,
        pad_token=end_of_text,
        additional_special_tokens=[token for token in GLM_TOKENS if token not in GLM_VISIBLE],
        clean_up_tokenization_spaces=False,
        model_max_length=GLM_CONTEXT_TOKENS,
        padding_side="left",
    )
    tokenizer.chat_template = Path(__file__).with_name("chat_template.jinja").read_text("utf-8")
    tokenizer.save_pretrained(folder)


def glm_config(ids: Mapping[str, int], text: Mapping[str, int], vision: Mapping[str, int]) -> Any:
    """Describe a small GLM-4.6V; all but its sizes is the same for every one.

    Args:
        ids: of `GLM_TOKENS`.
        text: sizes of the decoder, as its config names them.
        vision: those of the vision tower.
    """
    from transformers import Glm4vConfig

    stop_ids = [ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]]
    return Glm4vConfig(
        text_config={
            **text,
            "num_key_value_heads": 1,
            "max_position_embeddings": GLM_CONTEXT_TOKENS,
            "attention_bias": True,
            "eos_token_id": stop_ids,
            "pad_token_id": stop_ids[0],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={**vision, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
        tie_word_embeddings=False,
    )


def write_glm_preprocessor(folder: Path, patch: int, size: dict[str, int]) -> None:
    """Write GLM's ``preprocessor_config.json``.

    Args:
        folder: of the checkpoint.
        patch: side of a patch in pixels.
        size: ``shortest_edge`` and ``longest_edge``, in pixels of two frames.
    """
    value = {
        "image_processor_type": "Glm46VImageProcessor",
        "processor_class": "Glm46VProcessor",
        "do_rescale": True,
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": size,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
    }
    write_json(folder / "preprocessor_config.json", value)


def save_owl2_tokenizer(tokenizer_model: bytes, folder: Path) -> None:
    """Write the files of a sentencepiece tokenizer as LLaMA's checkpoints have them."""
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": OWL2_CONTEXT_TOKENS,
            "padding_side": "right",
            "sp_model_kwargs": {},
        },
    )


def write_owl2_settings(folder: Path, side: int) -> None:
    """Write ``generation_config.json`` and ``preprocessor_config.json``; pictures become squares of so many pixels."""
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    value = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "crop_size": side,
        "size": side,
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "resample": 3,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
    }
    write_json(folder / "preprocessor_config.json", value)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file as a person would."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + os.linesep, "utf-8")
