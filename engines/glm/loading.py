"""From a checkpoint name to a model on a device, with the best attention that really works.

In: the fields of `EngineOptions`. Out: transformers' model, and the attention it ended up with.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from engines.runtime.attention import attention_candidates, load_with_attention
from engines.runtime.quantization import loading_options, on_device

VISION_MODULES = ("model.visual",)
"""What turns pictures into rows of the sequence."""

# Modules kept in full precision: small beside the decoder, and their errors would reach every token.
UNQUANTIZED_MODULES = (*VISION_MODULES, "lm_head")


def load_model(
    model: str, device: torch.device, dtype: torch.dtype, attn_implementation: str, quantization: str = "none"
) -> tuple[Any, str]:
    """Load the weights, straight to the device, with the best attention that answers a text and a picture.

    Args:
        model: a checkpoint folder or a hub id.
        device: where the weights go.
        dtype: what they are converted to.
        attn_implementation: ``auto``, or one of transformers' names.
        quantization: of the decoder's matrices: ``none``, ``int8`` or ``int4``.

    Returns:
        The model in evaluation mode, and the attention it uses.

    Raises:
        OSError: if the checkpoint is not there or not whole.
        ImportError: if not even the plainest attention works (also ValueError and RuntimeError).
        MemoryError: if the weights do not fit.
        ValueError: if that quantization is not possible here.
    """
    options = {**on_device(device), **loading_options(quantization, device, dtype, UNQUANTIZED_MODULES)}

    def load(attention: str) -> Any:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            model, dtype=dtype, attn_implementation=attention, **options
        )
        # Weights that were loaded to their place stay there; quantized ones refuse to be moved.
        return (loaded if options else loaded.to(device)).eval()

    return load_with_attention(attention_candidates(attn_implementation, device, dtype), load, _try_out)


@torch.inference_mode()
def _try_out(model: Any) -> None:
    """Let the model read the smallest picture there is, and a word behind it."""
    vision = model.config.vision_config
    num_rows, merge = 2, vision.spatial_merge_size
    grid = torch.tensor([[1, num_rows * merge, num_rows * merge]])
    values_per_patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    input_ids = torch.tensor([[model.config.image_token_id] * num_rows**2 + [0]])
    types = (input_ids == model.config.image_token_id).int()
    position_ids, _ = model.model.get_rope_index(input_ids, types, image_grid_thw=grid)
    model(
        input_ids=input_ids.to(model.device),
        position_ids=position_ids.to(model.device),
        mm_token_type_ids=types.to(model.device),
        pixel_values=torch.zeros((int(grid.prod()), values_per_patch), device=model.device),
        image_grid_thw=grid.to(model.device),
        use_cache=False,
        logits_to_keep=1,
    )
