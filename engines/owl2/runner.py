"""mPLUG-Owl2's part of the running batch: what the shared runner leaves to the model.

In: prepared requests. Out: vision features and logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from engines.base import SamplingParams
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.owl2.decoding import Answer
from engines.owl2.language import ModalityRouting, rotary_tables
from engines.owl2.model import MPLUGOwl2ForConditionalGeneration
from engines.owl2.tokenizer import Owl2Tokenizer
from engines.runtime import runner
from engines.runtime.adapters import Adapters
from engines.runtime.kv_cache import KVShape, KVStep
from engines.runtime.prefix_cache import CacheScope, ImageSpan, PrefixCache, TokenSequence
from engines.runtime.runner import pictures_within


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request ready for the model.

    Attributes:
        sequence: the prompt as the model sees it: 0 on the rows of a picture.
        pictures: the sequence's, in order, (3, S, S) float32; None once encoded.
        max_tokens: limit of the answer; fits the context.
        sampling: the request's knobs.
        scope: where the caches may look.
    """

    sequence: TokenSequence
    pictures: list[Tensor | None] = field(repr=False)
    max_tokens: int
    sampling: SamplingParams
    scope: CacheScope

    @classmethod
    def make(
        cls,
        input_ids: Sequence[int],
        pixel_values: Tensor | None,
        num_image_rows: int,
        max_tokens: int,
        sampling: SamplingParams,
        scope: CacheScope,
    ) -> PreparedRequest:
        """Give every picture its rows and its hash.

        Args:
            input_ids: S ids, -200 for a picture.
            pixel_values: (N, 3, S, S) float32, one per picture; None without any.
            num_image_rows: rows per picture.
            max_tokens: as the attribute.
            sampling: likewise.
            scope: likewise.

        Raises:
            ValueError: if there are not exactly as many pictures as markers.
        """
        pictures = () if pixel_values is None else pixel_values.unbind()
        if (num_markers := list(input_ids).count(IMAGE_TOKEN_ID)) != len(pictures):
            raise ValueError(f"{num_markers} image markers in input_ids but {len(pictures)} images")
        ids: list[int] = []
        images: list[ImageSpan] = []
        for token_id in input_ids:
            if token_id == IMAGE_TOKEN_ID:
                pixels = pictures[len(images)].contiguous().numpy()
                images.append(
                    ImageSpan(len(ids), num_image_rows, blake2b(pixels.tobytes(), digest_size=32).hexdigest())
                )
                ids += [0] * num_image_rows
            else:
                ids.append(token_id)
        return cls(TokenSequence(ids, images), list(pictures), max_tokens, sampling, scope)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer at most."""
        return len(self.sequence) + self.max_tokens


Row = runner.Row[PreparedRequest]


class Owl2Runner(runner.ModelRunner[PreparedRequest, Row]):
    """The shared runner with our own model.

    Args:
        model: in evaluation mode; nothing else may use it meanwhile.
        tokenizer: of the checkpoint.
        eos_token_ids: tokens that end an answer.
        cache: keeps vision features and beginnings.
        max_rows: most rows at a time.
        adapters: of the model; None if it has none.
        max_tokens: bound of what the rows take, see `cost`.
    """

    def __init__(
        self,
        model: MPLUGOwl2ForConditionalGeneration,
        tokenizer: Owl2Tokenizer,
        eos_token_ids: AbstractSet[int],
        cache: PrefixCache,
        max_rows: int,
        adapters: Adapters | None = None,
        *,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(kv_shape(model), cache, max_rows, max_tokens)
        self.eos_token_ids = eos_token_ids
        self._model = model
        self._tokenizer = tokenizer
        self._adapters = adapters or Adapters(model)
        positions = torch.arange(model.config.max_position_embeddings, device=model.device)
        self._cos, self._sin = rotary_tables(model.config, positions)  # (context, head_dim)

    def begin(self, job: PreparedRequest) -> Row:
        """Make a row."""
        answer = Answer(self._tokenizer, job.sampling, self.eos_token_ids, job.max_tokens)
        return Row(job, runner.make_sampler(job), answer, features=[None] * len(job.sequence.images))

    @torch.inference_mode()
    def encode(self, pixels: Tensor, adapter: str = "") -> Tensor:
        """Run one picture, (3, S, S), through tower and abstractor, as an adapter changes them; (Q + 1, H)."""
        with self._adapters.applied([adapter]):
            (features,) = self._model.model.encode_images(pixels[None].to(self._model.device, self._model.dtype))
        return features

    def _feature_scope(self, scope: CacheScope) -> CacheScope:
        return self._adapters.feature_scope(scope)

    def _picture_work(self, num_rows: int, max_tokens: int) -> int:
        return max_tokens  # 1025 patches through the tower for 65 rows: no token is read in the same turn

    def _embed(self, token_ids: Tensor) -> Tensor:
        return self._model.model.embed_tokens(token_ids)

    def _read(self, row: Row, embeddings: Tensor, start: int) -> Tensor:
        assert row.prompt is not None
        stop = start + len(embeddings)
        is_image = torch.zeros(len(embeddings), dtype=torch.bool)
        for _, (first, last) in pictures_within(row.job.sequence.images, start, stop):
            is_image[first - start : last - start] = True
        routing = ModalityRouting.from_indicators(is_image.to(self._model.device)) if is_image.any() else None
        rotary = self._cos[None, start:stop], self._sin[None, start:stop]
        mask = self._prefill_mask(start, stop)
        # One request alone: its text and image rows part inside the layers, and all of them have its adapter.
        with self._adapters.applied([row.job.scope.adapter]):
            hidden_states = self._model.model.run_layers(embeddings[None], routing, mask, rotary, row.prompt)
            return self._model.lm_head(hidden_states[:, -1])  # (1, n, H) to (1, V)

    def _step(self, rows: Sequence[Row], step: KVStep) -> Tensor:
        model = self._model
        token_ids = torch.tensor([row.token_ids[-1:] for row in rows]).to(model.device, non_blocking=True)  # (B, 1)
        rotary = self._cos[step.positions][:, None], self._sin[step.positions][:, None]  # (B, 1, head_dim)
        hidden_states = model.model.embed_tokens(token_ids)  # (B, 1, H)
        with self._adapters.applied([row.job.scope.adapter for row in rows]):
            hidden_states = model.model.run_layers(hidden_states, None, step.mask, rotary, step)
            return model.lm_head(hidden_states[:, -1])

    def _prefill_mask(self, start: int, stop: int) -> Tensor | None:
        """Hide what comes later; None where attention does so by itself."""
        implementation = self._model.config._attn_implementation
        # Without a mask, flash attention lets the last query see all; torch's lets the first see one, whatever is past.
        if stop - start == 1 or "flash" in implementation or (start == 0 and implementation != "eager"):
            return None
        mask = torch.full((stop - start, stop), float("-inf"), dtype=self._shape.dtype, device=self._shape.device)
        return mask.triu(start + 1)[None, None]


def kv_shape(model: MPLUGOwl2ForConditionalGeneration) -> KVShape:
    """Describe the keys and values of a model."""
    config = model.config
    return KVShape(
        config.num_hidden_layers,
        config.num_attention_heads,
        config.head_dim,
        model.dtype,
        model.device,
        picture_row_bytes=config.hidden_size * model.dtype.itemsize,
    )
