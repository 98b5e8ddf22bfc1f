"""The modality-adaptive decoder: a LLaMA decoder whose layers hold some modules twice.

In: embeddings (B, S, H) of text and image rows, and which is which. Out: hidden states (B, S, H) and a filled cache.
Norms and the key and value projections exist once for text and once for images; the rest is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from engines.owl2.attention import attend
from engines.owl2.config import MPLUGOwl2Config

TEXT, IMAGE = 0, 1
"""Values of a modality indicator, and indices into ``multiway``."""


class KeyValueStore(Protocol):
    """What attention needs of a cache: transformers' `Cache`, or the engine's own."""

    def update(self, key: Tensor, value: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Add new keys and values, (B, heads, S, head_dim); return all of that layer."""
        ...


@dataclass(frozen=True, slots=True)
class ModalityRouting:
    """Which rows of a flattened batch are text and which are image: found once per forward, used by every layer.

    Attributes:
        text_rows: (T,) indices into the B * S rows.
        image_rows: (I,) the others.
        inverse: (B * S,) where each row is in the concatenation of text rows and image rows.
    """

    text_rows: Tensor
    image_rows: Tensor
    inverse: Tensor

    @classmethod
    def from_indicators(cls, modality_indicators: Tensor) -> ModalityRouting:
        """Build the index lists.

        Args:
            modality_indicators: (B, S), 0 for text and 1 for image rows.
        """
        is_image = modality_indicators.reshape(-1).bool()
        text_rows, image_rows = (~is_image).nonzero().squeeze(1), is_image.nonzero().squeeze(1)
        order = torch.cat([text_rows, image_rows])
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel(), device=order.device)
        return cls(text_rows, image_rows, inverse)


class Multiway(nn.Module):
    """One module per modality, each row given to its own.

    Args:
        make: builds one of the two modules; they must map (R, D_in) to (R, D_out) row by row.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([make(), make()])

    def forward(self, hidden_states: Tensor, routing: ModalityRouting | None) -> Tensor:
        """Apply the module of each row's modality.

        Args:
            hidden_states: (B, S, D_in).
            routing: None if every row is text: decode steps and text-only prompts then cost what LLaMA costs.

        Returns:
            (B, S, D_out).
        """
        if routing is None:
            return self.multiway[TEXT](hidden_states)
        rows = hidden_states.flatten(0, 1)
        text = self.multiway[TEXT](rows.index_select(0, routing.text_rows))
        image = self.multiway[IMAGE](rows.index_select(0, routing.image_rows))
        mixed = torch.cat([text, image]).index_select(0, routing.inverse)
        return mixed.view(*hidden_states.shape[:-1], -1)


class MPLUGOwl2RMSNorm(nn.Module):
    """Root-mean-square norm; the mean is taken in float32 and the weight applied in the input's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        # Without its weight, torch's norm is bit for bit the reference's, and one kernel on CUDA instead of six.
        return self.weight * nn.functional.rms_norm(hidden_states, self.weight.shape, eps=self.eps)


def rotary_tables(config: MPLUGOwl2Config, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, in float32 whatever the model's dtype.

    They are made anew in each forward: one row of frequencies costs nothing, and there is no buffer that a cast or a
    load on the meta device could spoil.

    Args:
        config: gives head width, base and linear scaling.
        position_ids: (B, S) or (1, S).

    Returns:
        Two float32 tensors of position_ids' shape with head_dim as last dimension; the halves are equal (rotate-half
        order).
    """
    rope = config.rope
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=position_ids.device)
    frequencies = 1.0 / (rope["rope_theta"] ** (half / config.head_dim))
    if rope["rope_type"] == "linear":
        frequencies = frequencies / rope["factor"]
    angles = position_ids[..., None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def apply_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys.

    Args:
        states: (B, heads, S, head_dim).
        cos: (B or 1, S, head_dim), float32.
        sin: likewise.

    Returns:
        Like ``states``, in its dtype; the rotation itself is done in float32.
    """
    first, second = states.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return (states * cos[:, None] + rotated * sin[:, None]).to(states.dtype)


class DecoderAttention(nn.Module):
    """Causal self-attention over text and image rows alike; keys and values come from each row's own projection."""

    def __init__(self, config: MPLUGOwl2Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.is_causal = True  # read by the attention functions
        self.num_key_value_groups = 1  # likewise

        def project() -> nn.Linear:
            return nn.Linear(config.hidden_size, config.hidden_size, bias=False)

        self.q_proj = project()
        self.k_proj = Multiway(project)
        self.v_proj = Multiway(project)
        self.o_proj = project()

    def forward(
        self,
        hidden_states: Tensor,
        routing: ModalityRouting | None,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        past_key_values: KeyValueStore | None,
    ) -> Tensor:
        """(B, S, H) to (B, S, H)."""

        def heads(rows: Tensor) -> Tensor:
            return rows.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        query = apply_rotary(heads(self.q_proj(hidden_states)), *rotary)
        key = apply_rotary(heads(self.k_proj(hidden_states, routing)), *rotary)
        value = heads(self.v_proj(hidden_states, routing))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        return self.o_proj(attend(self, self.config, query, key, value, attention_mask))


class DecoderMLP(nn.Module):
    """LLaMA's gated feed-forward, shared by both modalities."""

    def __init__(self, config: MPLUGOwl2Config) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, S, H) to (B, S, H)."""
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class DecoderLayer(GradientCheckpointingLayer):
    """One decoder layer."""

    def __init__(self, config: MPLUGOwl2Config, layer_idx: int) -> None:
        super().__init__()

        def norm() -> MPLUGOwl2RMSNorm:
            return MPLUGOwl2RMSNorm(config.hidden_size, config.rms_norm_eps)

        self.input_layernorm = Multiway(norm)
        self.self_attn = DecoderAttention(config, layer_idx)
        self.post_attention_layernorm = Multiway(norm)
        self.mlp = DecoderMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        routing: ModalityRouting | None,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        past_key_values: KeyValueStore | None = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            hidden_states: (B, S, H).
            routing: which rows are image rows; None: all are text.
            attention_mask: what transformers' ``create_causal_mask`` gave for the attention function in use.
            rotary: from `rotary_tables`.
            past_key_values: cache that takes this layer's keys and values.

        Returns:
            (B, S, H).
        """
        normed = self.input_layernorm(hidden_states, routing)
        hidden_states = hidden_states + self.self_attn(normed, routing, attention_mask, rotary, past_key_values)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states, routing))
