"""The model's side of a running batch: prompts are read in chunks, then all rows go on together, one token a step.

In: prepared requests, from the scheduler. Out: deltas. Runs on the model thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from engines.base import Delta, SamplingParams, Usage
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.owl2.decoding import Answer
from engines.owl2.language import ModalityRouting, rotary_tables
from engines.owl2.model import MPLUGOwl2ForConditionalGeneration
from engines.owl2.tokenizer import Owl2Tokenizer
from engines.runtime.kv_cache import KVBatch, KVPrompt, KVShape, KVStep, memory_errors
from engines.runtime.prefix_cache import CacheScope, ImageSpan, PrefixCache, TokenSequence
from engines.runtime.sampling import Pick, Sampler, pick_tokens


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request ready for the model.

    Attributes:
        sequence: the prompt as the model sees it: 0 on the rows of a picture.
        pixel_values: (N, 3, S, S) float32, one per picture of the sequence; None without any.
        max_tokens: bound of the answer; fits the context.
        sampling: the request's knobs.
        scope: where the caches may look.
    """

    sequence: TokenSequence
    pixel_values: Tensor | None
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
            pixel_values: as the attribute.
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
        return cls(TokenSequence(ids, images), pixel_values, max_tokens, sampling, scope)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer at most."""
        return len(self.sequence) + self.max_tokens


@dataclass(eq=False, slots=True)
class Row:
    """An admitted request.

    Attributes:
        job: what was asked.
        sampler: its way of choosing.
        answer: what was answered so far.
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
    prompt: KVPrompt | None = None
    features: list[Tensor | None] = field(default_factory=list)
    place: int | None = None
    pick: Pick | None = None
    token_ids: list[int] = field(default_factory=list)
    num_cached: int = 0


class Owl2Runner:
    """Implements `engines.runtime.batching.BatchRunner`.

    Args:
        model: in evaluation mode; nobody else may use it meanwhile.
        tokenizer: of the checkpoint.
        eos_token_ids: tokens that end an answer.
        cache: keeps vision features and beginnings.
        max_rows: most rows at a time.
    """

    def __init__(
        self,
        model: MPLUGOwl2ForConditionalGeneration,
        tokenizer: Owl2Tokenizer,
        eos_token_ids: AbstractSet[int],
        cache: PrefixCache,
        max_rows: int,
    ) -> None:
        self.eos_token_ids = eos_token_ids
        self.cache = cache
        self._model = model
        self._tokenizer = tokenizer
        self._shape = kv_shape(model)
        self._batch = KVBatch(self._shape, max_rows)
        self._places: list[Row] = []
        positions = torch.arange(model.config.max_position_embeddings, device=model.device)
        self._cos, self._sin = rotary_tables(model.config, positions)  # (context, head_dim)

    # -- what the scheduler calls -------------------------------------------------------------------------------------

    def cost(self, jobs: Sequence[PreparedRequest]) -> int:
        """Rows lie side by side, so each takes as much as the longest."""
        return len(jobs) * max(job.max_length for job in jobs)

    def begin(self, job: PreparedRequest) -> Row:
        """Make a row."""
        answer = Answer(self._tokenizer, job.sampling, self.eos_token_ids, job.max_tokens)
        return Row(job, Sampler(job.sampling), answer, features=[None] * len(job.sequence.images))

    @torch.inference_mode()
    def prefill(self, row: Row, max_tokens: int) -> tuple[int, bool]:
        """Encode one picture, or read some more of the prompt."""
        with memory_errors():
            if row.prompt is None:
                row.prompt, row.num_cached = self._begin_prompt(row.job)
            prompt, start = row.prompt, row.prompt.num_done
            if self._encode_picture(row, start):
                return max_tokens, False
            stop = min(start + max_tokens, prompt.num_tokens)
            hidden_states = self._read(row, start, stop)
            if stop == prompt.num_tokens:
                (pick,) = pick_tokens(self._model.lm_head(hidden_states[:, -1]), [row.sampler])
                pick.check()
                # Before the row is ready: if memory ends here, the prompt's last piece is read again.
                self.cache.put_prefix(row.job.scope, row.job.sequence, prompt.layers)
                row.place = self._batch.join(prompt, row.job.max_length)
                self._places.append(row)
                self._take(row, pick)
                row.prompt = None
            prompt.advance(stop - start)
        return stop - start, row.place is not None

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row]) -> list[BaseException | None]:
        """Choose the next token of every row: one forward, one transfer from the device."""
        in_place = sorted(rows, key=_place)  # so that the whole batch is read where it lies
        with memory_errors():
            logits, step = self.decode_logits(in_place)
            picks = pick_tokens(logits, [row.sampler for row in in_place])
        step.advance()
        errors: dict[Row, BaseException] = {}
        for row, pick in zip(in_place, picks, strict=True):
            try:
                pick.check()
            except Exception as error:
                errors[row] = error
            else:
                self._take(row, pick)
        return [errors.get(row) for row in rows]

    def advance(self, row: Row) -> tuple[list[Delta], bool]:
        """Turn the token chosen last into text."""
        assert row.pick is not None
        delta = row.answer.push(row.pick)
        deltas = [] if delta is None else [delta]
        if row.answer.finish_reason is None:
            return deltas, False
        usage = Usage(
            prompt_tokens=len(row.job.sequence),
            completion_tokens=row.answer.num_tokens,
            image_tokens=sum(span.length for span in row.job.sequence.images),
            cached_tokens=row.num_cached,
        )
        return [*deltas, row.answer.finish(usage)], True

    @torch.inference_mode()
    def drop(self, row: Row, *, is_complete: bool) -> None:
        """Free the row's place; a conversation that came to its end is kept for the question that follows it."""
        row.prompt = None
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
        model = self._model
        step = self._batch.begin_step([_place(row) for row in rows])
        token_ids = torch.tensor([row.token_ids[-1:] for row in rows]).to(model.device, non_blocking=True)  # (B, 1)
        rotary = self._cos[step.positions][:, None], self._sin[step.positions][:, None]  # (B, 1, head_dim)
        hidden_states = model.model.embed_tokens(token_ids)  # (B, 1, H)
        hidden_states = model.model.run_layers(hidden_states, None, step.mask, rotary, step)
        return model.lm_head(hidden_states[:, -1]), step

    def _begin_prompt(self, job: PreparedRequest) -> tuple[KVPrompt, int]:
        """Make room for a prompt's keys and values, with what is known of them already filled in."""
        prompt = KVPrompt(self._shape, len(job.sequence))
        with self.cache.longest_prefix(job.scope, job.sequence, len(job.sequence) - 1) as prefix:
            if prefix is None:
                return prompt, 0
            prompt.load(prefix.layers, prefix.num_tokens)
            return prompt, prefix.num_tokens

    def _encode_picture(self, row: Row, start: int) -> bool:
        """Get hold of the features of all pictures from ``start`` on, encoding one at most; False if none was left."""
        for index, span in enumerate(row.job.sequence.images):
            if span.start < start or row.features[index] is not None:
                continue
            row.features[index] = self.cache.get_features(row.job.scope, span.pixel_hash)
            if row.features[index] is None:
                assert row.job.pixel_values is not None
                pixels = row.job.pixel_values[index : index + 1].to(self._model.device, self._model.dtype)
                (features,) = self._model.model.encode_images(pixels)  # (Q + 1, H)
                row.features[index] = features
                self.cache.put_features(row.job.scope, span.pixel_hash, features)
                return True
        return False

    def _read(self, row: Row, start: int, stop: int) -> Tensor:
        """Run rows of a prompt through the layers; (1, stop - start, H)."""
        model = self._model
        assert row.prompt is not None
        token_ids = torch.from_numpy(row.job.sequence.ids[start:stop]).to(model.device)
        hidden_states = model.model.embed_tokens(token_ids)  # (n, H)
        is_image = torch.zeros(stop - start, dtype=torch.bool)
        for span, features in zip(row.job.sequence.images, row.features, strict=True):
            first, last = max(span.start, start), min(span.start + span.length, stop)
            if first < last:
                assert features is not None
                rows = features[first - span.start : last - span.start]
                hidden_states[first - start : last - start] = rows.to(hidden_states.dtype)
                is_image[first - start : last - start] = True
        routing = ModalityRouting.from_indicators(is_image.to(model.device)) if is_image.any() else None
        rotary = self._cos[None, start:stop], self._sin[None, start:stop]
        mask = self._prefill_mask(start, stop)
        return model.model.run_layers(hidden_states[None], routing, mask, rotary, row.prompt)

    def _prefill_mask(self, start: int, stop: int) -> Tensor | None:
        """Hide what comes later; None where attention does so by itself."""
        implementation = self._model.config._attn_implementation
        # Without a mask, flash attention lets the last query see all; torch's lets the first see one, whatever is past.
        if stop - start == 1 or "flash" in implementation or (start == 0 and implementation != "eager"):
            return None
        mask = torch.full((stop - start, stop), float("-inf"), dtype=self._shape.dtype, device=self._shape.device)
        return mask.triu(start + 1)[None, None]

    def _take(self, row: Row, pick: Pick) -> None:
        row.sampler.advance()
        row.pick = pick
        row.token_ids.append(pick.token_id)


def _place(row: Row) -> int:
    assert row.place is not None
    return row.place


def kv_shape(model: MPLUGOwl2ForConditionalGeneration) -> KVShape:
    """Describe the keys and values of a model."""
    config = model.config
    return KVShape(config.num_hidden_layers, config.num_attention_heads, config.head_dim, model.dtype, model.device)
