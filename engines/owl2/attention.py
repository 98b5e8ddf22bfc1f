"""Attention, in whichever implementation the model was loaded with: ``sdpa``, ``flash_attention_2`` or ``eager``.

In: queries, keys and values by heads. Out: what each query read. Chosen per call from the config, so that one model can
be compared with itself; nothing is registered or replaced in transformers.
"""

from __future__ import annotations

from torch import Tensor, float32, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Attention written out, softmax in float32; for ``attn_implementation="eager"``.

    Args:
        module: tells whether it trains; part of the interface of transformers' attention functions.
        query: (B, heads, S, head_dim).
        key: (B, heads, K, head_dim).
        value: like key.
        attention_mask: (B or 1, 1, S, K), added to the scores.
        scaling: factor of the scores.
        dropout: share of the weights that are dropped in training.

    Returns:
        (B, S, heads, head_dim) and the weights (B, heads, S, K).
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    weights = scores.softmax(dim=-1, dtype=float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


def attend(
    module: nn.Module,
    config: PreTrainedConfig,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend with the implementation the config names.

    Args:
        module: has ``is_causal``, which the implementations read.
        config: of the part of the model.
        query: (B, heads, S, head_dim).
        key: (B, heads, K, head_dim).
        value: like key.
        attention_mask: what transformers' ``create_causal_mask`` made for that implementation; None: no mask. One of
            four dimensions is added to the scores, whatever the implementation.
        dropout: share of the weights that are dropped in training.

    Returns:
        (B, S, heads * head_dim).
    """
    implementation = config._attn_implementation or "eager"  # none: a part on its own, outside a model
    if attention_mask is not None and attention_mask.dim() == 4 and "flash" in implementation:
        implementation = "sdpa"  # flash attention takes no scores to add; decode steps of unequal rows need them
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
    dropout = dropout if module.training else 0.0
    mixed, _ = function(module, query, key, value, attention_mask, dropout=dropout, scaling=query.shape[-1] ** -0.5)
    return mixed.flatten(2)
