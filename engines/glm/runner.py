"""GLM's part of the running batch: what the shared runner leaves to the model.

In: prepared requests. Out: vision features and logits. The model is transformers' own; positions are always given to
it, and its attention layers write their keys and values straight into ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from engines.base import SamplingParams
from engines.glm.decoding import Answer
from engines.runtime import runner
from engines.runtime.adapters import Adapters
from engines.runtime.constrained import Constraint
from engines.runtime.kv_cache import KVPrompt, KVShape, KVStep
from engines.runtime.prefix_cache import CacheScope, ImageSpan, PrefixCache, TokenSequence

# (input_ids (1, S), mm_token_type_ids (1, S), image_grid_thw) to positions (3, 1, S) and the rope delta (1, 1)
RopeIndex = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Pixels:
    """One picture as the vision tower takes it.

    Attributes:
        pixel_values: (P, 1176) float32 patches.
        grid_thw: (1, 3) frames, rows and columns of patches.
        merge_size: so many patches by so many become one row of the model's sequence.
    """

    pixel_values: Tensor = field(repr=False)
    grid_thw: Tensor
    merge_size: int = 2

    @property
    def num_rows(self) -> int:
        """Rows of the model's sequence."""
        return int(self.grid_thw.prod()) // self.merge_size**2

    def hash(self) -> str:
        """Tell pictures apart, also those of equal patches and another shape."""
        digest = blake2b(self.pixel_values.contiguous().numpy().data, digest_size=32)
        digest.update(self.grid_thw.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request ready for the model.

    Attributes:
        sequence: the prompt, with the placeholders of every picture.
        pictures: the sequence's, in order. Each is 24 MB a megapixel, so they go as soon as they are encoded.
        position_ids: (3, S), of the whole prompt.
        max_tokens: bound of the answer; fits the context.
        sampling: the request's knobs.
        scope: where the caches may look; it names the adapter too.
        enable_thinking: the model may think before it answers.
        picture_sizes: width and height in pixels, as sent and upright; boxes are told in them.
        start_constraint: holds the answer to a JSON Schema; None lets it be free.
    """

    sequence: TokenSequence
    pictures: list[Pixels | None]
    position_ids: Tensor = field(repr=False)
    max_tokens: int
    sampling: SamplingParams
    scope: CacheScope
    enable_thinking: bool = False
    picture_sizes: Sequence[tuple[int, int]] = ()
    start_constraint: Callable[[], Constraint] | None = None

    @classmethod
    def make(
        cls,
        input_ids: Sequence[int],
        pictures: Sequence[Pixels],
        image_token_id: int,
        get_rope_index: RopeIndex,
        max_tokens: int,
        sampling: SamplingParams,
        scope: CacheScope,
        *,
        enable_thinking: bool = False,
        picture_sizes: Sequence[tuple[int, int]] = (),
        start_constraint: Callable[[], Constraint] | None = None,
    ) -> PreparedRequest:
        """Find every picture's rows, and where each row is in the model's three kinds of positions.

        Args:
            input_ids: S ids; every picture already as many placeholders as it has rows.
            pictures: in order.
            image_token_id: the placeholder.
            get_rope_index: the model's own; it keeps no state, so any thread may call it.
            max_tokens: as the attribute.
            sampling: likewise.
            scope: likewise.
            enable_thinking: likewise.
            picture_sizes: likewise.
            start_constraint: likewise.

        Raises:
            ValueError: if the placeholders are not exactly the pictures' rows.
        """
        ids = torch.tensor([input_ids])  # (1, S)
        is_image = ids == image_token_id
        places = is_image[0].nonzero().flatten().tolist()
        if len(places) != sum(picture.num_rows for picture in pictures):
            raise ValueError(f"{len(places)} placeholders for pictures of {[p.num_rows for p in pictures]} rows")
        spans: list[ImageSpan] = []
        for picture in pictures:
            start = places[sum(span.length for span in spans)]
            spans.append(ImageSpan(start, picture.num_rows, picture.hash()))
        grids = torch.cat([picture.grid_thw for picture in pictures]) if pictures else None
        position_ids, _ = get_rope_index(ids, is_image.int(), image_grid_thw=grids)
        sequence = TokenSequence(input_ids, spans)
        positions = position_ids[:, 0]
        return cls(
            sequence,
            list(pictures),
            positions,
            max_tokens,
            sampling,
            scope,
            enable_thinking,
            picture_sizes,
            start_constraint,
        )

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer at most."""
        return len(self.sequence) + self.max_tokens

    @property
    def rope_delta(self) -> int:
        """What a token's place is to be moved by to get its position, behind the prompt: pictures take less room."""
        return int(self.position_ids.max()) + 1 - len(self.sequence)


@dataclass(eq=False, slots=True)
class Row(runner.Row[PreparedRequest]):
    """An admitted request.

    Attributes:
        rope_delta: of the prompt; a decode step needs it for every row.
    """

    rope_delta: int = 0


class GlmRunner(runner.ModelRunner[PreparedRequest, Row]):
    """The shared runner with transformers' own model.

    Args:
        model: a `Glm4vForConditionalGeneration` in evaluation mode; nothing else may use it meanwhile.
        make_answer: makes what turns a request's tokens into deltas.
        cache: keeps vision features and beginnings.
        max_rows: most rows at a time.
        adapters: of the model; None if it has none.
        max_tokens: bound of what the rows take, see `cost`.
    """

    def __init__(
        self,
        model: Any,
        make_answer: Callable[[PreparedRequest], Answer],
        cache: PrefixCache,
        max_rows: int,
        adapters: Adapters | None = None,
        *,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(kv_shape(model), cache, max_rows, max_tokens)
        self._model = model
        self._adapters = adapters or Adapters(model)
        self._make_answer = make_answer

    def begin(self, job: PreparedRequest) -> Row:
        """Make a row."""
        return Row(
            job,
            runner.make_sampler(job),
            self._make_answer(job),
            job.start_constraint() if job.start_constraint else None,
            features=[None] * len(job.pictures),
            rope_delta=job.rope_delta,
        )

    @torch.inference_mode()
    def encode(self, pixels: Pixels, adapter: str = "") -> Tensor:
        """Run one picture through the vision tower, as an adapter changes it; (rows, H)."""
        device = self._shape.device
        with self._adapters.applied([adapter]):
            output = self._model.get_image_features(
                pixels.pixel_values.to(device, non_blocking=True), pixels.grid_thw.to(device), return_dict=True
            )
        (features,) = output.pooler_output
        return features

    def _feature_scope(self, scope: CacheScope) -> CacheScope:
        return self._adapters.feature_scope(scope)

    def _embed(self, token_ids: Tensor) -> Tensor:
        return self._model.get_input_embeddings()(token_ids)

    def _read(self, row: Row, embeddings: Tensor, start: int) -> Tensor:
        assert row.prompt is not None
        stop = start + len(embeddings)
        return self._forward(
            [row.job.scope.adapter],
            inputs_embeds=embeddings[None],
            position_ids=row.job.position_ids[:, None, start:stop].to(self._shape.device),
            past_key_values=_OwnCache(row.prompt, start),
        )

    def _step(self, rows: Sequence[Row], step: KVStep) -> Tensor:
        inputs = torch.tensor([(row.token_ids[-1], row.rope_delta) for row in rows])
        token_ids, deltas = inputs.to(self._shape.device, non_blocking=True).unbind(1)  # (B,) each
        positions = (step.positions + deltas)[None, :, None].expand(3, -1, -1)  # (3, B, 1)
        with self._decode_attention():
            return self._forward(
                [row.job.scope.adapter for row in rows],
                input_ids=token_ids[:, None],
                position_ids=positions,
                attention_mask=step.mask,
                past_key_values=_OwnCache(step, step.width - 1),
            )

    def _forward(self, adapters: Sequence[str], **inputs: Any) -> Tensor:
        """Call the model, for prompts and decode steps alike.

        Args:
            adapters: name of each row's LoRA adapter; empty for the model as it is.
            inputs: token ids or embeddings (B, n), positions (3, B, n), a cache of ours, and a mask (B, 1, n, width)
                unless the library is to make one from the cache's sizes.

        Returns:
            (B, V) logits after each row's last token.
        """
        with self._adapters.applied(adapters):
            output = self._model(**inputs, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1]

    @contextmanager
    def _decode_attention(self) -> Iterator[None]:
        """Use torch's attention in decode steps where prompts are read by a flash one.

        The library hands the flash kernels a batch of unequal rows by copying every row's keys and values out of it,
        layer by layer; torch's takes them where they lie, with a mask.
        """
        config = self._model.config.get_text_config()
        before = config._attn_implementation
        if "flash" not in before:
            yield
            return
        config._attn_implementation = "sdpa"
        try:
            yield
        finally:
            config._attn_implementation = before


class _OwnCache(Cache):
    """What transformers' attention layers take for a cache: it passes everything on to ours.

    Args:
        target: where keys and values go.
        num_before: tokens in front of those that come now; the library sizes its causal masks by it.
    """

    def __init__(self, target: KVPrompt | KVStep, num_before: int) -> None:
        super().__init__(layers=[])
        self._target = target
        self._num_before = num_before

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values behind what is there; return all of them."""
        return self._target.update(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens in front of those that come now."""
        return self._num_before

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Width of a mask, and which token its first column is."""
        return self._num_before + query_length, 0


def kv_shape(model: Any) -> KVShape:
    """Describe the keys and values of a model; several query heads share one of theirs."""
    config = model.config.get_text_config()
    # Not `model.dtype`: in a quantized model that is the dtype of an arbitrary weight.
    dtype = model.get_input_embeddings().weight.dtype
    # torch's attention has no kernel that takes a mask and shared heads; one query alone is packed instead.
    num_repeats = config.num_attention_heads // config.num_key_value_heads
    return KVShape(
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.hidden_size // config.num_attention_heads,
        dtype,
        model.device,
        num_repeats=0 if "flash" in config._attn_implementation or num_repeats == 1 else num_repeats,
        picture_row_bytes=config.hidden_size * dtype.itemsize,
    )
