"""The model's side of a running batch: prompts are read in chunks, then all rows go on together, one token a step.

In: prepared requests, from the scheduler. Out: deltas. Runs on the model thread only. The model is transformers' own;
positions are always given to it, and its attention layers write their keys and values straight into ours.
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

from engines.base import Delta, SamplingParams, Usage
from engines.glm.adapters import Adapters
from engines.glm.decoding import Answer
from engines.runtime.constrained import Constraint, constrain
from engines.runtime.kv_cache import KVBatch, KVPrompt, KVShape, KVStep, memory_errors
from engines.runtime.prefix_cache import CacheScope, ImageSpan, PrefixCache, TokenSequence
from engines.runtime.sampling import Pick, Sampler, pick_tokens

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
class Row:
    """An admitted request.

    Attributes:
        job: what was asked.
        sampler: its way of choosing.
        answer: what was answered so far.
        rope_delta: of the prompt.
        constraint: what the answer's tokens are held to, if to anything.
        prompt: keys and values while the prompt is read; None before and after that.
        features: of its pictures, in order, as far as they are needed and known.
        place: row of the batch once the prompt is read.
        pick: what was chosen last.
        token_ids: what was chosen so far.
        num_cached: tokens of the prompt that were not computed.
    """

    job: PreparedRequest
    sampler: Sampler
    answer: Answer
    rope_delta: int
    constraint: Constraint | None = None
    prompt: KVPrompt | None = None
    features: list[Tensor | None] = field(default_factory=list)
    place: int | None = None
    pick: Pick | None = None
    token_ids: list[int] = field(default_factory=list)
    num_cached: int = 0

    def check(self, pick: Pick) -> None:
        """Refuse to go on where there was nothing to choose from.

        Raises:
            EngineError: if the constraint gave up, or the model's numbers are useless.
        """
        if self.constraint is not None:
            self.constraint.check()
        pick.check()


class GlmRunner:
    """Implements `engines.runtime.batching.BatchRunner`.

    Args:
        model: a `Glm4vForConditionalGeneration` in evaluation mode; nobody else may use it meanwhile.
        make_answer: makes what turns a request's tokens into deltas.
        cache: keeps vision features and beginnings.
        max_rows: most rows at a time.
        adapters: of the model; None if it has none.
    """

    def __init__(
        self,
        model: Any,
        make_answer: Callable[[PreparedRequest], Answer],
        cache: PrefixCache,
        max_rows: int,
        adapters: Adapters | None = None,
    ) -> None:
        self.cache = cache
        self._model = model
        self._adapters = adapters or Adapters(model)
        self._make_answer = make_answer
        self._shape = kv_shape(model)
        self._batch = KVBatch(self._shape, max_rows)
        self._places: list[Row] = []

    # -- what the scheduler calls -------------------------------------------------------------------------------------

    def cost(self, jobs: Sequence[PreparedRequest]) -> int:
        """Rows lie side by side, so each takes as much as the longest."""
        return len(jobs) * max(job.max_length for job in jobs)

    def begin(self, job: PreparedRequest) -> Row:
        """Make a row."""
        features: list[Tensor | None] = [None] * len(job.pictures)
        constraint = job.start_constraint() if job.start_constraint else None
        return Row(job, Sampler(job.sampling), self._make_answer(job), job.rope_delta, constraint, features=features)

    @torch.inference_mode()
    def prefill(self, row: Row, max_tokens: int) -> tuple[int, bool]:
        """Encode one picture, or read some more of the prompt."""
        with memory_errors():
            if row.prompt is None:
                row.prompt, row.num_cached = self._begin_prompt(row.job)
            prompt, start = row.prompt, row.prompt.num_done
            if (num_rows := self._encode_picture(row, start)) > 0:
                return num_rows, False
            stop = min(start + max_tokens, prompt.num_tokens)
            logits = self._read(row, start, stop)
            if stop == prompt.num_tokens:
                (pick,) = self._pick(logits, [row])
                row.check(pick)
                # Before the row is ready: if memory ends here, the prompt's last piece is read again.
                self.cache.put_prefix(row.job.scope, row.job.sequence, prompt.layers)
                row.place = self._batch.join(prompt, row.job.max_length)
                self._places.append(row)
                self._take(row, pick)
                row.prompt = None
                row.features.clear()
                row.job.pictures.clear()
            prompt.advance(stop - start)
        return stop - start, row.place is not None

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row]) -> list[BaseException | None]:
        """Choose the next token of every row: one forward, one transfer from the device."""
        in_place = sorted(rows, key=_place)  # so that the whole batch is read where it lies
        with memory_errors():
            logits, step = self.decode_logits(in_place)
            picks = self._pick(logits, in_place)
        step.advance()
        errors: dict[Row, BaseException] = {}
        for row, pick in zip(in_place, picks, strict=True):
            try:
                row.check(pick)
                self._take(row, pick)
            except Exception as error:
                errors[row] = error
        return [errors.get(row) for row in rows]

    def advance(self, row: Row) -> tuple[list[Delta], bool]:
        """Turn the token chosen last into text."""
        assert row.pick is not None
        delta = row.answer.push(row.pick, is_complete=row.constraint is not None and row.constraint.is_complete)
        deltas = [] if delta is None else [delta]
        if row.answer.finish_reason is None:
            return deltas, False
        usage = Usage(
            prompt_tokens=len(row.job.sequence),
            completion_tokens=row.answer.num_tokens,
            image_tokens=sum(span.length for span in row.job.sequence.images),
            cached_tokens=row.num_cached,
            reasoning_tokens=row.answer.num_reasoning_tokens,
        )
        return [*deltas, row.answer.finish(usage)], True

    @torch.inference_mode()
    def drop(self, row: Row, *, is_complete: bool) -> None:
        """Free the row's place; a conversation that came to its end is kept for the question that follows it."""
        row.prompt = None
        row.features.clear()
        if row.place is None:
            return
        try:
            if is_complete:
                layers = self._batch.views(row.place)
                num_answered = self._batch.lengths[row.place] - len(row.job.sequence)
                # The last token was chosen but never read, so there is nothing to keep of it.
                sequence = row.job.sequence.extended(row.token_ids[:num_answered])
                self.cache.put_prefix(row.job.scope, sequence, layers)
        finally:
            self._batch.leave(row.place)
            last = self._places.pop()
            if last is not row:
                self._places[row.place], last.place = last, row.place
            row.place = None

    def relieve(self) -> None:
        """Let the caches go."""
        self.cache.clear()
        self._batch.release()
        if self._shape.device.type == "cuda":
            torch.cuda.empty_cache()

    # -- the model ----------------------------------------------------------------------------------------------------

    def decode_logits(self, rows: Sequence[Row]) -> tuple[Tensor, KVStep]:
        """Run one decode step; the rows are as before until the step is advanced.

        Args:
            rows: read to the end of their prompts; best in the order of their places, without gaps.

        Returns:
            (B, V) logits, and the step.
        """
        step = self._batch.begin_step([_place(row) for row in rows])
        inputs = torch.tensor([(row.token_ids[-1], row.rope_delta) for row in rows])
        token_ids, deltas = inputs.to(self._shape.device, non_blocking=True).unbind(1)  # (B,) each
        positions = (step.positions + deltas)[None, :, None].expand(3, -1, -1)  # (3, B, 1)
        with self._decode_attention():
            logits = self._forward(
                [row.job.scope.adapter for row in rows],
                input_ids=token_ids[:, None],
                position_ids=positions,
                attention_mask=step.mask,
                past_key_values=_OwnCache(step, step.width - 1),
            )
        return logits, step

    def _read(self, row: Row, start: int, stop: int) -> Tensor:
        """Run rows of a prompt through the layers; (1, V) logits after the last of them."""
        assert row.prompt is not None
        ids = torch.from_numpy(row.job.sequence.ids[start:stop]).to(self._shape.device)
        embeddings = self._model.get_input_embeddings()(ids)  # (n, H)
        for span, features in zip(row.job.sequence.images, row.features, strict=True):
            first, last = max(span.start, start), min(span.start + span.length, stop)
            if first < last:
                assert features is not None
                rows = features[first - span.start : last - span.start]
                embeddings[first - start : last - start] = rows.to(embeddings.dtype)
        return self._forward(
            [row.job.scope.adapter],
            inputs_embeds=embeddings[None],
            position_ids=row.job.position_ids[:, None, start:stop].to(self._shape.device),
            past_key_values=_OwnCache(row.prompt, start),
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
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def _pick(self, logits: Tensor, rows: Sequence[Row]) -> list[Pick]:
        """Choose a token for each row; (B, V) logits."""
        allowed = constrain(logits, [row.constraint for row in rows])
        return pick_tokens(logits, [row.sampler for row in rows], allowed)

    def _take(self, row: Row, pick: Pick) -> None:
        if row.constraint is not None:
            row.constraint.accept(pick.token_id)
        row.sampler.advance()
        row.pick = pick
        row.token_ids.append(pick.token_id)

    def _begin_prompt(self, job: PreparedRequest) -> tuple[KVPrompt, int]:
        """Make room for a prompt's keys and values, with what is known of them already filled in."""
        prompt = KVPrompt(self._shape, len(job.sequence))
        with self.cache.longest_prefix(job.scope, job.sequence, len(job.sequence) - 1) as prefix:
            if prefix is None:
                return prompt, 0
            prompt.load(prefix.layers, prefix.num_tokens)
            return prompt, prefix.num_tokens

    def _encode_picture(self, row: Row, start: int) -> int:
        """Get hold of the features of all pictures from ``start`` on, encoding one at most; return its rows, or 0."""
        job = row.job
        scope = self._adapters.feature_scope(job.scope)
        for index, span in enumerate(job.sequence.images):
            if span.start < start or row.features[index] is not None:
                continue
            row.features[index] = self.cache.get_features(scope, span.pixel_hash)
            if row.features[index] is None:
                pixels = job.pictures[index]
                assert pixels is not None
                features = self.encode(pixels, scope.adapter)
                row.features[index] = features
                job.pictures[index] = None
                self.cache.put_features(scope, span.pixel_hash, features)
                return span.length
            job.pictures[index] = None
        return 0

    @torch.inference_mode()
    def encode(self, pixels: Pixels, adapter: str = "") -> Tensor:
        """Run one picture through the vision tower, as an adapter changes it; (rows, H)."""
        device = self._shape.device
        with self._adapters.applied([adapter]):
            output = self._model.get_image_features(
                pixels.pixel_values.to(device, non_blocking=True), pixels.grid_thw.to(device), return_dict=True
            )
        (features,) = output.pooler_output
        return features  # type: ignore[no-any-return]

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


def _place(row: Row) -> int:
    assert row.place is not None
    return row.place


def kv_shape(model: Any) -> KVShape:
    """Describe the keys and values of a model; several query heads share one of theirs."""
    config = model.config.get_text_config()
    head_dim = config.hidden_size // config.num_attention_heads
    # Not the model's dtype: of a quantized one that is whatever its first weight happens to be.
    dtype = model.get_input_embeddings().weight.dtype
    return KVShape(config.num_hidden_layers, config.num_key_value_heads, head_dim, dtype, model.device)
