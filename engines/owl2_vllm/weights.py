"""Where each tensor of a checkpoint goes: the published names to those of the model in `model.py`.

In: names of tensors. Out: names of parameters, and which part of a fused one. No vLLM here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from engines.owl2.checks import is_ignored

# Slices of the fused matrices, in the order in which they are computed and split again.
QKV_PARTS: Final = ("q_proj", "k_proj.multiway.0", "v_proj.multiway.0", "k_proj.multiway.1", "v_proj.multiway.1")
GATE_UP_PARTS: Final = ("gate_proj", "up_proj")
_FUSED: Final = {"self_attn": ("qkv_proj", QKV_PARTS), "mlp": ("gate_up_proj", GATE_UP_PARTS)}
_TOWERS: Final = ("vision_model.", "visual_abstractor.")


class Target(NamedTuple):
    """Where a tensor goes.

    Attributes:
        parameter: its name.
        part: which slice of it; None for all of it.
    """

    parameter: str
    part: int | None = None


def target_of(name: str) -> Target | None:
    """Find the place of a tensor by its published name; None for a constant that is computed instead."""
    if is_ignored(name):
        return None
    if not name.startswith("model."):
        return Target(name)  # the head
    name = name.removeprefix("model.")
    if name.startswith(_TOWERS):
        return Target(name)
    for block, (fused, parts) in _FUSED.items():
        before, separator, after = name.partition(f".{block}.")
        part = after.removesuffix(".weight")
        if separator and part in parts:
            return Target(f"language_model.{before}.{block}.{fused}.weight", parts.index(part))
    return Target(f"language_model.{name}")
