"""The visual abstractor: many vision rows in, a few rows in the decoder's width out.

In: (N, P + 1, D) from the vision tower. Out: (N, Q + 1, H): what Q learned queries read from them, then one learned
end-of-image row. The position tables are constants, so they are computed here and never read from a checkpoint.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from engines.owl2.attention import attend
from engines.owl2.config import MPLUGOwl2AbstractorConfig

# The three block norms keep torch's default in the reference; only ffn_ln follows layer_norm_eps.
BLOCK_NORM_EPS = 1e-5


def sincos_table(width: int, positions: Tensor) -> Tensor:
    """Sines, then cosines, of positions at geometrically falling frequencies.

    Args:
        width: columns of the table, even.
        positions: (T,).

    Returns:
        (T, width), float64: the first half of the columns are sines, the second half cosines (not interleaved).
    """
    half = width // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions.to(torch.float64)[:, None] * omega[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def query_positions(num_queries: int, width: int) -> Tensor:
    """Positions of the learned queries.

    Returns:
        (Q, width), float64. For Q 64, width 1024 it sums to 25048.26.
    """
    return sincos_table(width, torch.arange(num_queries))


def key_positions(grid_size: int, width: int) -> Tensor:
    """Positions of the vision rows: zeros for CLS, then the grid row by row.

    Returns:
        (G * G + 1, width), float64: the first half of the columns encodes the column index, the second half the row
        index. For G 32, width 1024 it sums to 439601.4.
    """
    index = torch.arange(grid_size)
    column = sincos_table(width // 2, index.repeat(grid_size))
    row = sincos_table(width // 2, index.repeat_interleave(grid_size))
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), torch.cat([column, row], dim=1)])


class PositionTables:
    """Both tables, made on first use for the device and dtype in use, then shared by all layers.

    They are neither parameters nor buffers on purpose: a buffer that is missing from the file, as these are from the
    published ones, holds uninitialised memory after a load on the meta device.
    """

    def __init__(self, config: MPLUGOwl2AbstractorConfig) -> None:
        self._shape = (config.num_learnable_queries, config.grid_size, config.hidden_size)
        self._tables: tuple[Tensor, Tensor] | None = None

    def get(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Q, A) and (P + 1, A) in the dtype and on the device of ``like``."""
        if self._tables is None or self._tables[0].device != like.device or self._tables[0].dtype != like.dtype:
            num_queries, grid_size, width = self._shape
            # Made outside inference mode, so that a table cached by a request can still serve a training step.
            with torch.inference_mode(False), torch.device("cpu"):
                tables = query_positions(num_queries, width), key_positions(grid_size, width)
                self._tables = tables[0].to(like.device, like.dtype), tables[1].to(like.device, like.dtype)
        return self._tables


class AbstractorAttention(nn.Module):
    """Multi-head attention of the queries; positions go to queries and keys, not to values."""

    def __init__(self, config: MPLUGOwl2AbstractorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.num_heads = config.num_attention_heads
        self.is_causal = False  # read by the attention functions
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, queries: Tensor, sources: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Read from ``sources``; (N, Q, A) and (N, Q + P + 1, A) to (N, Q, A)."""
        n, _, width = queries.shape

        def heads(rows: Tensor) -> Tensor:
            return rows.view(n, -1, self.num_heads, width // self.num_heads).transpose(1, 2)

        return attend(
            self,
            self.config,
            heads(self.query(queries + q_pos)),
            heads(self.key(sources + torch.cat([q_pos, k_pos]))),
            heads(self.value(sources)),
            dropout=self.config.attention_probs_dropout_prob,
        )


class AbstractorMLP(nn.Module):
    """A gated feed-forward with a layer norm inside."""

    def __init__(self, config: MPLUGOwl2AbstractorConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, Q, A) to (N, Q, A)."""
        return self.w2(self.ffn_ln(F.silu(self.w1(rows)) * self.w3(rows)))


class AbstractorOutput(nn.Module):
    """Output projection and feed-forward, each added to a running value."""

    def __init__(self, config: MPLUGOwl2AbstractorConfig) -> None:
        super().__init__()
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=BLOCK_NORM_EPS)
        self.mlp = AbstractorMLP(config)

    def forward(self, attended: Tensor, residual: Tensor) -> Tensor:
        """(N, Q, A) twice to (N, Q, A)."""
        rows = residual + self.out_proj(attended)
        return rows + self.mlp(self.norm2(rows))


class CrossAttention(nn.Module):
    """One block: the queries read themselves and all vision rows."""

    def __init__(self, config: MPLUGOwl2AbstractorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=BLOCK_NORM_EPS)
        self.normk = nn.LayerNorm(config.encoder_hidden_size, eps=BLOCK_NORM_EPS)
        self.attention = AbstractorAttention(config)
        self.output = AbstractorOutput(config)

    def forward(self, queries: Tensor, vision_features: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """(N, Q, A) and (N, P + 1, A) to (N, Q, A)."""
        queries = self.norm1(queries)
        sources = torch.cat([queries, self.normk(vision_features)], dim=1)
        # The residual is the *normalised* query: that is how the published weights were trained.
        return self.output(self.attention(queries, sources, q_pos, k_pos), residual=queries)


class AbstractorLayer(nn.Module):
    """A block under the name the tensors have."""

    def __init__(self, config: MPLUGOwl2AbstractorConfig) -> None:
        super().__init__()
        self.crossattention = CrossAttention(config)

    def forward(self, queries: Tensor, vision_features: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """See `CrossAttention.forward`."""
        return self.crossattention(queries, vision_features, q_pos, k_pos)


class AbstractorEncoder(nn.Module):
    """The stack of blocks; every one reads the same vision rows."""

    def __init__(self, config: MPLUGOwl2AbstractorConfig) -> None:
        super().__init__()
        self.position_tables = PositionTables(config)
        self.layers = nn.ModuleList(AbstractorLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, queries: Tensor, vision_features: Tensor) -> Tensor:
        """(N, Q, A) and (N, P + 1, A) to (N, Q, A)."""
        q_pos, k_pos = self.position_tables.get(queries)
        for layer in self.layers:
            queries = layer(queries, vision_features, q_pos, k_pos)
        return queries


class VisualAbstractor(nn.Module):
    """The whole abstractor.

    Args:
        config: its shape.
        output_size: the decoder's width H.
    """

    def __init__(self, config: MPLUGOwl2AbstractorConfig, output_size: int) -> None:
        super().__init__()
        self.query_embeds = nn.Parameter(torch.zeros(1, config.num_learnable_queries, config.hidden_size))
        self.encoder = AbstractorEncoder(config)
        self.visual_fc = nn.Linear(config.hidden_size, output_size)
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, output_size))

    def forward(self, vision_features: Tensor) -> Tensor:
        """Compress an image's feature rows into a fixed number of decoder inputs.

        Args:
            vision_features: (N, P + 1, D), the vision tower's output, CLS first.

        Returns:
            (N, Q + 1, H): the learned queries, then the end-of-image row. 65 x 4096 for the published checkpoint.

        Source: mPLUG-Owl2, arXiv:2311.04257; X-PLUG/mPLUG-Owl@0f3068f visual_encoder.py.
        """
        num_images = vision_features.shape[0]
        queries = self.encoder(self.query_embeds.expand(num_images, -1, -1), vision_features)
        return torch.cat([self.visual_fc(queries), self.vit_eos.expand(num_images, -1, -1)], dim=1)
