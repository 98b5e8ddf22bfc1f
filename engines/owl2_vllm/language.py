"""The decoder in vLLM's layers: rows of a picture have their own norms, keys and values.

In: ids, positions and embeddings of the rows of all requests in a step, one after another. Out: hidden states (R, H).
Which rows are of pictures is read off their ids inside the compiled graph, so it holds for whatever vLLM does with a
step: chunks, padding, a chunk of one row, a replayed graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.models.utils import maybe_prefix

from engines.owl2.config import MPLUGOwl2Config
from engines.owl2.language import IMAGE, TEXT
from engines.owl2_vllm.prompts import image_token_id
from engines.owl2_vllm.weights import GATE_UP_PARTS, QKV_PARTS


class TwoNorms(nn.Module):
    """A norm for rows of text and one for rows of pictures."""

    def __init__(self, config: MPLUGOwl2Config) -> None:
        super().__init__()
        self.multiway = nn.ModuleList(RMSNorm(config.hidden_size, eps=config.rms_norm_eps) for _ in (TEXT, IMAGE))

    def forward(self, hidden_states: Tensor, is_image: Tensor) -> Tensor:
        """(R, H) and (R, 1) to (R, H)."""
        return torch.where(is_image, self.multiway[IMAGE](hidden_states), self.multiway[TEXT](hidden_states))


class TwoWayAttention(nn.Module):
    """Causal attention over vLLM's paged cache; keys and values come from each row's own projection.

    All five projections are one matrix. Rows of text pay for the pictures' two as well: in exchange the graph is the
    same for every step, and a captured one can be replayed whatever the rows are.
    """

    def __init__(self, vllm_config: VllmConfig, config: MPLUGOwl2Config, prefix: str) -> None:
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        num_heads = config.num_attention_heads // get_tensor_model_parallel_world_size()
        self.part_width = num_heads * head_dim
        self.qkv_proj = MergedColumnParallelLinear(
            width,
            [width] * len(QKV_PARTS),
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            width, width, bias=False, quant_config=vllm_config.quant_config, prefix=f"{prefix}.o_proj"
        )
        self.rotary_emb = get_rope(
            head_dim, max_position=config.max_position_embeddings, rope_parameters=config.rope, is_neox_style=True
        )
        self.attn = Attention(
            num_heads,
            head_dim,
            head_dim**-0.5,
            num_kv_heads=num_heads,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: Tensor, hidden_states: Tensor, is_image: Tensor) -> Tensor:
        """(R,), (R, H) and (R, 1) to (R, H)."""
        parts, _ = self.qkv_proj(hidden_states)
        query, text_key, text_value, image_key, image_value = parts.split(self.part_width, dim=-1)
        key = torch.where(is_image, image_key, text_key)
        value = torch.where(is_image, image_value, text_value)
        query, key = self.rotary_emb(positions, query, key)
        output, _ = self.o_proj(self.attn(query, key, value))
        return output


class GatedMLP(nn.Module):
    """LLaMA's feed-forward, shared by both kinds of rows."""

    def __init__(self, vllm_config: VllmConfig, config: MPLUGOwl2Config, prefix: str) -> None:
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(
            config.hidden_size,
            [config.intermediate_size] * len(GATE_UP_PARTS),
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.gate_up_proj",
        )
        self.down_proj = RowParallelLinear(
            config.intermediate_size,
            config.hidden_size,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.down_proj",
        )
        self.activation = SiluAndMul()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(R, H) to (R, H)."""
        gate_up, _ = self.gate_up_proj(hidden_states)
        output, _ = self.down_proj(self.activation(gate_up))
        return output


class Owl2Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, vllm_config: VllmConfig, config: MPLUGOwl2Config, prefix: str) -> None:
        super().__init__()
        self.input_layernorm = TwoNorms(config)
        self.self_attn = TwoWayAttention(vllm_config, config, f"{prefix}.self_attn")
        self.post_attention_layernorm = TwoNorms(config)
        self.mlp = GatedMLP(vllm_config, config, f"{prefix}.mlp")

    def forward(self, positions: Tensor, hidden_states: Tensor, is_image: Tensor) -> Tensor:
        """(R,), (R, H) and (R, 1) to (R, H)."""
        normed = self.input_layernorm(hidden_states, is_image)
        hidden_states = hidden_states + self.self_attn(positions, normed, is_image)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states, is_image))


@support_torch_compile(dynamic_arg_dims={"input_ids": 0, "positions": 0, "inputs_embeds": 0})
class Owl2Decoder(nn.Module):
    """Token embeddings, the layers and the last norm.

    Args:
        vllm_config: of the process.
        prefix: name of the module in the model.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: MPLUGOwl2Config = vllm_config.model_config.hf_config
        if config.hidden_act != "silu":
            raise ValueError(f"mplug_owl2: hidden_act {config.hidden_act!r} is not supported on vLLM, only 'silu'")
        self.image_token_id = image_token_id(config)
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Owl2Layer(vllm_config, config, maybe_prefix(prefix, f"layers.{index}"))
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Look up rows of text; (R,) to (R, H). What rows of pictures get is replaced by their features."""
        return self.embed_tokens(input_ids.masked_fill(input_ids == self.image_token_id, 0))

    def forward(self, input_ids: Tensor, positions: Tensor, inputs_embeds: Tensor) -> Tensor:
        """Run all layers over the rows of a step; (R,), (R,) and (R, H) to (R, H)."""
        is_image = (input_ids == self.image_token_id).unsqueeze(-1)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(positions, hidden_states, is_image)
        return self.norm(hidden_states)
