"""The vision tower: pixels in, one feature row per patch out, CLS first.

In: normalised images (N, 3, S, S). Out: (N, P + 1, D) after the final layer norm, P the number of patches. Like CLIP's
vision tower, except that nothing is dropped: the last layer is used, CLS stays, every row is normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from engines.owl2.attention import attend
from engines.owl2.config import MPLUGOwl2VisionConfig


class VisionEmbeddings(nn.Module):
    """Patches, the CLS token in front, learned positions on all of them, then a layer norm."""

    def __init__(self, config: MPLUGOwl2VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.image_size = config.image_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = nn.Conv2d(
            config.num_channels, width, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Parameter(torch.zeros(1, config.grid_size**2 + 1, width))
        self.pre_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed images; see `VisionModel.forward`."""
        if pixel_values.shape[-2:] != (self.image_size, self.image_size):
            height, width = pixel_values.shape[-2:]
            raise ValueError(
                f"images must be {self.image_size}x{self.image_size} px, not {width}x{height}: "
                "the learned positions are not interpolated"
            )
        patches = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype))  # (N, D, G, G)
        patches = patches.flatten(2).transpose(1, 2)  # (N, P, D), row-major
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        return self.pre_layernorm(torch.cat([cls, patches], dim=1) + self.position_embedding)


class VisionAttention(nn.Module):
    """Bidirectional self-attention with one fused projection."""

    def __init__(self, config: MPLUGOwl2VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.is_causal = False  # read by the attention functions
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Attend over all rows; (N, T, D) to (N, T, D)."""
        n, t, d = hidden_states.shape
        # The fused output is laid out head by head, [head][query, key, value][head_dim], not [query | key | value].
        fused = self.query_key_value(hidden_states).view(n, t, self.num_heads, 3, d // self.num_heads)
        query, key, value = fused.permute(3, 0, 2, 1, 4)  # each (N, heads, T, head_dim)
        return self.dense(attend(self, self.config, query, key, value, dropout=self.config.attention_dropout))


class VisionMLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: MPLUGOwl2VisionConfig) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        return self.fc2(self.activation(self.fc1(hidden_states)))


class VisionLayer(GradientCheckpointingLayer):
    """One pre-norm transformer layer."""

    def __init__(self, config: MPLUGOwl2VisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states))
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class VisionEncoder(nn.Module):
    """The stack of layers; a module of its own because the tensor names say so."""

    def __init__(self, config: MPLUGOwl2VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class VisionModel(nn.Module):
    """The whole vision tower."""

    def __init__(self, config: MPLUGOwl2VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Turn images into feature rows.

        Args:
            pixel_values: (N, 3, S, S), normalised; cast to the weights' dtype.

        Returns:
            (N, P + 1, D): CLS, then the patches in row-major order. 1025 x 1024 for the published checkpoint.

        Raises:
            ValueError: if the images have another size than the positions were learned for.

        Source: mPLUG-Owl2, arXiv:2311.04257; X-PLUG/mPLUG-Owl@0f3068f visual_encoder.py.
        """
        return self.post_layernorm(self.encoder(self.embeddings(pixel_values)))
