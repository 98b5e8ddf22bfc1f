"""Both models' forward passes over packed questions: pictures are read once, many questions about them side by side.

In: a batch from `data.py`. Out: hidden states at the places where an answer token is to be predicted, and the picture's
rows. The numbers are those of the ordinary classes asked one question at a time; only the shapes are fixed, so that
`torch.compile` makes one graph, and no picture is encoded twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


CHUNK = 64
"""Text rows whose attention is usually computed together; a question with its answer has at most one more."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; (N, heads, S, D) to (N, S, heads * D).

    On a CPU always in float32: its kernel takes twice as long in bfloat16.
    """
    if key.shape[1] != query.shape[1]:
        key, value = (rows.repeat_interleave(query.shape[1] // rows.shape[1], dim=1) for rows in (key, value))
    if query.device.type != "cpu":
        mixed = F.scaled_dot_product_attention(query, key.to(query), value.to(query), attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2).to(value.dtype)


class PackedAttention:
    """Who may read whom: the prefix itself causally, a question the prefix and itself, never another question.

    Most pairs of rows never meet, so they are not computed: text rows go in chunks, each with the prefix, the chunk
    before it and itself as keys.

    Args:
        block: (B, T) number of the question each text row belongs to; 0 is padding.
        sees_images: (B, T), False for rows of a question that has no picture.
        is_key: (B, P), False for prefix rows that only fill up a small picture.
        num_text_prefix: leading prefix rows that questions without a picture have too.
        chunk: text rows whose attention is computed together; divides T.
    """

    def __init__(
        self, block: Tensor, sees_images: Tensor, is_key: Tensor, num_text_prefix: int, chunk: int = CHUNK
    ) -> None:
        size, self.num_prefix = is_key.shape
        self.chunk, self.num_chunks = chunk, block.shape[1] // chunk
        device = block.device
        causal = torch.ones(self.num_prefix, self.num_prefix, dtype=torch.bool, device=device).tril()
        own = torch.eye(self.num_prefix, dtype=torch.bool, device=device)
        self.prefix_mask = ((causal & is_key[:, None]) | own)[:, None]
        is_common = torch.arange(self.num_prefix, device=device) < num_text_prefix
        to_prefix = is_key[:, None] & (sees_images[:, :, None] | is_common)  # (B, T, P)
        chunks = block.view(size, self.num_chunks, chunk)
        before = F.pad(chunks, (0, 0, 1, 0), value=-1)[:, :-1]
        keys = torch.cat([before, chunks], dim=2)
        later = torch.ones(chunk, 2 * chunk, dtype=torch.bool, device=device).tril(diagonal=chunk)
        to_text = (chunks[..., None] == keys[:, :, None]) & later
        mask = torch.cat([to_prefix.view(size, self.num_chunks, chunk, -1), to_text], dim=3)
        self.text_mask = mask.flatten(0, 1)[:, None]  # (B * chunks, 1, chunk, P + 2 * chunk)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, heads, P + T, D) three times to (B, P + T, heads * D)."""
        at = self.num_prefix
        prefix = attend(query[:, :, :at], key[:, :, :at], value[:, :, :at], self.prefix_mask)
        size, heads, _, width = query.shape
        query = self._chunks(query[:, :, at:]).flatten(0, 1)
        mixed = attend(query, self._with_context(key), self._with_context(value), self.text_mask)
        return torch.cat([prefix, mixed.view(size, -1, heads * width)], dim=1)

    def _chunks(self, rows: Tensor) -> Tensor:
        """(B, heads, T, D) to (B, chunks, heads, chunk, D)."""
        return rows.unflatten(2, (self.num_chunks, self.chunk)).transpose(1, 2)

    def _with_context(self, rows: Tensor) -> Tensor:
        """(B, heads, P + T, D) to (B * chunks, heads, P + 2 * chunk, D)."""
        prefix = rows[:, None, :, : self.num_prefix].expand(-1, self.num_chunks, -1, -1, -1)
        chunks = self._chunks(rows[:, :, self.num_prefix :])
        before = F.pad(chunks, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
        return torch.cat([prefix, before, chunks], dim=3).flatten(0, 1)


def _normalise(pixels: Tensor, channel_dim: int) -> Tensor:
    shape = [1] * pixels.dim()
    shape[channel_dim] = 3
    mean = torch.tensor(CLIP_MEAN, device=pixels.device).view(shape)
    std = torch.tensor(CLIP_STD, device=pixels.device).view(shape)
    return (pixels.float() / 255 - mean) / std


class PackedGlm(nn.Module):
    """`Glm4vForConditionalGeneration` over packed questions with one picture each.

    Args:
        model: the model that trains; its parameters stay its own.
        grids: (height, width) in merged cells of every picture size there is; a batch names them by index.
        before: ids before the picture's rows.
        after: ids behind them.
        num_text_prefix: how many ids of ``before`` a question without a picture begins with.
    """

    def __init__(
        self, model: Any, grids: list[tuple[int, int]], before: list[int], after: list[int], num_text_prefix: int
    ) -> None:
        super().__init__()
        self.model = model
        self.num_text_prefix = num_text_prefix
        self.register_buffer("before", torch.tensor(before), persistent=False)
        self.register_buffer("after", torch.tensor(after), persistent=False)
        vision = model.model.visual
        self.num_cells = max(height * width for height, width in grids)
        tables = [_glm_grid_tables(vision, height, width, self.num_cells) for height, width in grids]
        for index, name in enumerate(("interpolation", "cos", "sin", "is_patch")):
            self.register_buffer(name, torch.stack([table[index] for table in tables]), persistent=False)
        starts = len(before)
        cells = torch.zeros(len(grids), 3, self.num_cells, dtype=torch.long)
        for index, (height, width) in enumerate(grids):
            places = torch.arange(height * width)
            cells[index, 1, : height * width] = places // width
            cells[index, 2, : height * width] = places % width
        self.register_buffer("cell_positions", cells + starts, persistent=False)
        self.register_buffer("image_end", starts + torch.tensor([max(grid) for grid in grids]), persistent=False)

    def encode_images(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Turn patches (N, P, 192) of uint8, and grid indices (N,), into the decoder's rows (N, P / 4, H)."""
        vision = self.model.model.visual
        n, num_patches, _ = pixels.shape
        values = _normalise(pixels.view(n, num_patches, 3, -1), 2).flatten(2)
        # A still picture is a film of two equal frames: the same patch meets the sum of both frames' weights.
        weight = vision.patch_embed.proj.weight.sum(dim=2).flatten(1)
        states = vision.post_conv_layernorm(F.linear(values, weight, vision.patch_embed.proj.bias))
        table = vision.embeddings.position_embedding.weight
        states = states + (self.interpolation @ table)[grid]
        cos, sin = self.cos[grid][:, None], self.sin[grid][:, None]
        mask = self.is_patch[grid][:, None, None]
        for block in vision.blocks:
            attention = block.attn
            qkv = attention.qkv(block.norm1(states)).view(n, num_patches, 3, attention.num_heads, -1)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, P, head_dim)
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
            states = states + attention.proj(attend(query, key, value, mask))
            states = states + block.mlp(block.norm2(states))
        states = vision.post_layernorm(states)
        weight = vision.downsample.weight.permute(0, 2, 3, 1).flatten(1)
        merged = F.linear(states.view(n, num_patches // 4, -1), weight, vision.downsample.bias)
        return vision.merger(merged)

    def forward(self, batch: dict[str, Tensor], chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
        """Run a batch with one picture per row; ``chunk`` as `PackedAttention` has it.

        Returns:
            (B, K, H) final states at ``label_index``, and (N, C, H) the pictures' rows.
        """
        rows = self.encode_images(batch["pixels"], batch["grid"])
        text = self.model.model.language_model
        ids, grid = batch["ids"], batch["grid"]
        size = ids.shape[0]
        embed = text.embed_tokens
        before, after = embed(self.before).expand(size, -1, -1), embed(self.after).expand(size, -1, -1)
        states = torch.cat([before, rows.to(before.dtype), after, embed(ids)], dim=1)

        num_before, num_after = self.before.shape[0], self.after.shape[0]
        end = self.image_end[grid][:, None]
        places = [
            torch.arange(num_before, device=ids.device).expand(3, size, -1),
            self.cell_positions[grid].transpose(0, 1),
            (end + torch.arange(num_after, device=ids.device)).expand(3, -1, -1),
            (batch["offset"] + torch.where(batch["sees_images"], end + num_after, self.num_text_prefix)).expand(
                3, -1, -1
            ),
        ]
        rotary = text.rotary_emb(states, position_ids=torch.cat(places, dim=2))
        is_cell = self.is_patch[grid][:, ::4]
        ones = is_cell.new_ones(size, 1)
        is_key = torch.cat([ones.expand(-1, num_before), is_cell, ones.expand(-1, num_after)], dim=1)
        attention = PackedAttention(batch["block"], batch["sees_images"], is_key, self.num_text_prefix, chunk)
        for layer in text.layers:
            states = _glm_layer(layer, states, attention, rotary)
        states = states[:, is_key.shape[1] :]
        index = batch["label_index"][..., None].expand(-1, -1, states.shape[-1])
        return text.norm(states.gather(1, index)), rows

    @property
    def head(self) -> Tensor:
        """The output matrix, (V, H)."""
        return self.model.lm_head.weight

    @property
    def embeddings(self) -> Tensor:
        """The input embeddings, (V, H)."""
        return self.model.get_input_embeddings().weight


def _glm_layer(layer: Any, states: Tensor, attend_packed: PackedAttention, rotary: tuple[Tensor, Tensor]) -> Tensor:
    from transformers.models.glm4v.modeling_glm4v import apply_rotary_pos_emb

    attention = layer.self_attn

    def heads(rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    normed = layer.input_layernorm(states)
    query, key = apply_rotary_pos_emb(heads(attention.q_proj(normed)), heads(attention.k_proj(normed)), *rotary)
    mixed = attention.o_proj(attend_packed(query, key, heads(attention.v_proj(normed))))
    states = states + layer.post_self_attn_layernorm(mixed)
    return states + layer.post_mlp_layernorm(layer.mlp(layer.post_attention_layernorm(states)))


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def _glm_grid_tables(vision: Any, height: int, width: int, num_cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Constants of one picture size: position interpolation (P, T), rotary (P, D) twice, which are real (P,)."""
    rows, columns = torch.meshgrid(torch.arange(2 * height), torch.arange(2 * width), indexing="ij")
    by_cell = (height, 2, width, 2)
    rows = rows.reshape(by_cell).transpose(1, 2).flatten()
    columns = columns.reshape(by_cell).transpose(1, 2).flatten()
    cos, sin = vision.rotary_pos_emb(torch.zeros(1), torch.stack([rows, columns], dim=-1))
    num_positions = vision.embeddings.num_positions
    side = int(num_positions**0.5)
    grid = torch.stack([(columns + 0.5) / width - 1, (rows + 0.5) / height - 1], dim=-1)[None, :, None]
    unit = torch.eye(num_positions).view(1, num_positions, side, side)
    sampled = F.grid_sample(unit, grid, mode="bicubic", align_corners=False, padding_mode="border")
    interpolation = sampled[0, :, :, 0].T
    is_patch = torch.ones(len(rows), dtype=torch.bool)
    missing = 4 * num_cells - len(rows)
    return (
        F.pad(interpolation, (0, 0, 0, missing)),
        F.pad(cos, (0, 0, 0, missing)),
        F.pad(sin, (0, 0, 0, missing)),
        F.pad(is_patch, (0, missing)),
    )


class PackedOwl2(nn.Module):
    """`MPLUGOwl2ForConditionalGeneration` over packed questions about the same one to four pictures.

    Args:
        model: the model that trains; its parameters stay its own.
        before: ids before the pictures' rows.
        num_text_prefix: how many of them a question without a picture begins with.
    """

    def __init__(self, model: Any, before: list[int], num_text_prefix: int) -> None:
        super().__init__()
        self.model = model
        self.num_text_prefix = num_text_prefix
        self.register_buffer("before", torch.tensor(before), persistent=False)
        self.num_cells = model.config.abstractor.num_learnable_queries
        queries, keys = model.model.visual_abstractor.encoder.position_tables.get(torch.zeros(()))
        self.register_buffer("query_positions", queries, persistent=False)
        self.register_buffer("key_positions", keys, persistent=False)

    def encode_images(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Turn pictures (N, 3, S, S) of uint8 into the decoder's rows (N, Q + 1, H); all have one size."""
        vision = self.model.model.vision_model
        values = _normalise(pixels, 1)
        embeddings = vision.embeddings
        size = embeddings.patch_embed.kernel_size[0]
        n, _, side, _ = values.shape
        patches = values.view(n, 3, side // size, size, side // size, size).permute(0, 2, 4, 1, 3, 5).flatten(3)
        patches = F.linear(patches.flatten(1, 2), embeddings.patch_embed.weight.flatten(1))
        cls = embeddings.cls_token.expand(n, -1, -1).to(patches.dtype)
        states = embeddings.pre_layernorm(torch.cat([cls, patches], dim=1) + embeddings.position_embedding)
        for layer in vision.encoder.layers:
            attention = layer.self_attn
            fused = attention.query_key_value(layer.input_layernorm(states))
            query, key, value = fused.unflatten(-1, (attention.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
            states = states + attention.dense(attend(query, key, value))
            states = states + layer.mlp(layer.post_attention_layernorm(states))
        return self._abstract(vision.post_layernorm(states))

    def _abstract(self, features: Tensor) -> Tensor:
        """Do what the visual abstractor does; (N, P + 1, D) to (N, Q + 1, H)."""
        abstractor = self.model.model.visual_abstractor
        n = features.shape[0]
        queries = abstractor.query_embeds.expand(n, -1, -1)
        for layer in abstractor.encoder.layers:
            part = layer.crossattention
            queries = part.norm1(queries)
            sources = torch.cat([queries, part.normk(features)], dim=1)
            attention = part.attention

            def heads(rows: Tensor, num_heads: int = attention.num_heads) -> Tensor:
                return rows.unflatten(-1, (num_heads, -1)).transpose(1, 2)

            query = heads(attention.query(queries + self.query_positions))
            key = heads(attention.key(sources + torch.cat([self.query_positions, self.key_positions])))
            queries = part.output(attend(query, key, heads(attention.value(sources))), residual=queries)
        rows = abstractor.visual_fc(queries)
        return torch.cat([rows, abstractor.vit_eos.expand(n, -1, -1).to(rows.dtype)], dim=1)

    def forward(self, batch: dict[str, Tensor], chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
        """Run a batch; row b's pictures are ``pixels[b * n : (b + 1) * n]``, ``chunk`` as `PackedAttention` has it.

        Returns:
            (B, K, H) final states at ``label_index``, and (N, Q, H) the pictures' rows but their last one.
        """
        from engines.owl2.language import rotary_tables

        rows = self.encode_images(batch["pixels"], batch["grid"])
        core, ids = self.model.model, batch["ids"]
        size = ids.shape[0]
        images = rows.view(size, -1, rows.shape[-1])
        num_before, num_image = self.before.shape[0], images.shape[1]
        begin, end = num_before, num_before + num_image
        before = core.embed_tokens(self.before).expand(size, -1, -1)
        states = torch.cat([before, images.to(before.dtype), core.embed_tokens(ids)], dim=1)

        prefix = torch.arange(end, device=ids.device).expand(size, -1)
        text = batch["offset"] + torch.where(batch["sees_images"], end, self.num_text_prefix)
        rotary = rotary_tables(core.config, torch.cat([prefix, text], dim=1))
        is_key = torch.ones(size, end, dtype=torch.bool, device=ids.device)
        attention = PackedAttention(batch["block"], batch["sees_images"], is_key, self.num_text_prefix, chunk)
        for layer in core.layers:
            states = _owl2_layer(layer, states, begin, end, attention, rotary)
        states = states[:, end:]
        index = batch["label_index"][..., None].expand(-1, -1, states.shape[-1])
        return core.norm(states.gather(1, index)), rows[:, :-1]

    @property
    def head(self) -> Tensor:
        """The output matrix, (V, H)."""
        return self.model.lm_head.weight

    @property
    def embeddings(self) -> Tensor:
        """The input embeddings, (V, H)."""
        return self.model.get_input_embeddings().weight


def _multiway(module: Any, states: Tensor, begin: int, end: int) -> Tensor:
    """Give rows ``begin`` to ``end`` to the image's module, the others to the text's: indices would be slow."""
    text = module.multiway[0](torch.cat([states[:, :begin], states[:, end:]], dim=1))
    image = module.multiway[1](states[:, begin:end])
    return torch.cat([text[:, :begin], image, text[:, begin:]], dim=1)


def _owl2_layer(
    layer: Any, states: Tensor, begin: int, end: int, attend_packed: PackedAttention, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    from engines.owl2.language import apply_rotary

    attention = layer.self_attn
    normed = _multiway(layer.input_layernorm, states, begin, end)

    def heads(rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    query = apply_rotary(heads(attention.q_proj(normed)), *rotary)
    key = apply_rotary(heads(_multiway(attention.k_proj, normed, begin, end)), *rotary)
    value = heads(_multiway(attention.v_proj, normed, begin, end))
    states = states + attention.o_proj(attend_packed(query, key, value))
    return states + layer.mlp(_multiway(layer.post_attention_layernorm, states, begin, end))
