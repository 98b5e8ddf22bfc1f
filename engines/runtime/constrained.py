"""Answers that follow a JSON Schema: which tokens may come next, per row of a running batch.

In: a schema's text, once per request, off the model thread; then logits (B, V) and one `Constraint` per row that has
one. Out: the logits with everything that the schema forbids at -inf. llguidance keeps the grammar.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import orjson
import torch
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from engines.base import GenerationFailedError
from engines.json_schema import ACCEPTED, JsonSchemaError, from_schema_text, shortest_answer, unsupported
from engines.runtime.json_budget import JsonBudget, Wish
from engines.runtime.schema_grammar import num_free_texts, to_compilable, with_bounded_numbers

_MAX_CACHED: Final = 64
_MAX_SAMPLED: Final = 4_000
# Over the schema's own options, which its caller could set in "x-guidance". White space between tokens is forbidden:
# a model that may write it can write newlines until the limit.
_OPTIONS: Final[dict[str, Any]] = {
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
    "item_separator": ",",
    "key_separator": ":",
    "json_allow_general_unicode_escapes": False,  # a lone surrogate would be valid JSON that most parsers refuse
}
# Definitions that can be read in many ways take 0.4 s a token with the compiler's own limit of 50,000 items. With this
# one, schemas of 400 required or 200 optional fields, of 80 alternatives and with all formats still work.
_LIMITS: Final = LLParserLimits(verbose_errors=False, step_max_items=5_000)


# Names of the compiler's own things, such as NoExtensionBias: they say nothing to a caller.
_OF_COMPILER: Final = re.compile(r"\b[A-Z][a-z]+[A-Z]\w*")


class GrammarCompiler:
    """Turns schemas into grammars over one model's tokens; built once per engine, used by any thread.

    Args:
        hf_tokenizer: a fast tokenizer; read now, never again.
        num_logits: width of the model's output, which may be padded beyond the vocabulary.
        stop_ids: tokens that end an answer; allowed wherever the schema is satisfied, and nowhere else.
    """

    def __init__(self, hf_tokenizer: Any, num_logits: int, stop_ids: Collection[int]) -> None:
        backend = json.loads(hf_tokenizer.backend_tokenizer.to_str())
        # Thinking, box and tool marks are text to this tokenizer. Inside a JSON string such a mark would be swallowed
        # on the way to the caller, or open the reasoning: no added token may stand for text.
        for token in backend["added_tokens"]:
            token["special"] = True
        backend["truncation"] = backend["padding"] = None
        self._stop_ids = frozenset(stop_ids)
        self._tokenizer = LLTokenizer(json.dumps(backend), n_vocab=num_logits, eos_token=sorted(stop_ids))
        self._newline_id = _only(self._tokenizer.tokenize_str("\n"))
        asleep = _full_mask(num_logits)
        for token_id in stop_ids:
            _set_bit(asleep, token_id, value=False)
        self._asleep_mask = asleep
        self._texts = tuple(self._tokenizer.decode_bytes([id_]) for id_ in range(self._tokenizer.vocab_size))
        self._starts: dict[Wish, tuple[Tensor, ...]] = {
            # Where a format lets no text end yet, as before an address's @ or a duration's unit: the mark that brings
            # its end nearer.
            "quote": tuple(self._starting_with(first) for first in (b'"', b"@", b":", b".", b"DS")),
            "bracket": (self._starting_with(b"}]"),),
        }
        self._cache: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, json_schema: str) -> Grammar:
        """Compile a schema; a few milliseconds, or nothing if it was asked for lately.

        Raises:
            JsonSchemaError: an `InvalidRequestError` that names the keyword at fault and says what is accepted.
        """
        return self._cached(json_schema, self._compile_schema)

    def compile_lark(self, text: str) -> Grammar:
        """Compile a grammar in Lark; it is not steered to an end.

        Raises:
            JsonSchemaError: if it cannot be compiled, or is too complex.
        """
        return self._cached(text, self._compile_lark)

    def _cached(self, text: str, compile_text: Callable[[str], Grammar]) -> Grammar:
        """Return what a text was compiled to lately, or compile it; two threads may compile the same text at once."""
        with self._lock:
            if (grammar := self._cache.get(text)) is not None:
                self._cache.move_to_end(text)
                return grammar
        grammar = compile_text(text)
        with self._lock:
            self._cache[text] = grammar
            while len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return grammar

    def _compile_schema(self, json_schema: str) -> Grammar:
        return Grammar(
            self._match(json_schema),
            self._asleep_mask,
            self._newline_id,
            self._stop_ids,
            partial(self._budget, from_schema_text(json_schema)),
        )

    def _compile_lark(self, text: str) -> Grammar:
        try:
            compiled = LLMatcher.grammar_from_lark(text)
        except ValueError as error:
            raise _explain(str(error)) from error
        matcher = LLMatcher(self._tokenizer, compiled, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _explain(matcher.get_error())
        return Grammar(matcher, self._asleep_mask, self._newline_id, self._stop_ids)

    def _starting_with(self, first: bytes) -> Tensor:
        """Return (W,): the tokens that begin with one of some bytes."""
        mask = torch.zeros_like(self._asleep_mask)
        for token_id, text in enumerate(self._texts):
            if text[:1] and text[0] in first and token_id not in self._stop_ids:
                _set_bit(mask, token_id, value=True)
        return mask

    def _budget(self, schema: dict[str, Any], max_tokens: int) -> Steering:
        """Return what steers an answer of at most so many tokens to its end."""
        # As many bytes a token as the names of the schema have with this tokenizer.
        sample = orjson.dumps(schema)[:_MAX_SAMPLED]
        tokens_per_byte = len(self._tokenizer.tokenize_bytes(sample)) / len(sample)
        fixed, repeated = shortest_answer(schema), shortest_answer(schema, items=1)
        is_nested = repeated < fixed  # with one element per list, the shortest answer is infinite
        num_fixed = math.ceil(fixed * tokens_per_byte)
        num_repeated = num_fixed if is_nested else math.ceil((repeated - fixed) * tokens_per_byte)
        budget = JsonBudget(max_tokens, num_free_texts(schema), num_fixed, num_repeated, is_nested=is_nested)
        return Steering(budget, self._texts, self._starts)

    def _match(self, json_schema: str) -> LLMatcher:
        schema = to_compilable(from_schema_text(json_schema))
        try:
            return self._match_schema(with_bounded_numbers(copy.deepcopy(schema)))
        except JsonSchemaError:  # perhaps only because of our own bounds
            return self._match_schema(schema)

    def _match_schema(self, schema: dict[str, Any]) -> LLMatcher:
        try:
            text = LLMatcher.grammar_from_json_schema(orjson.dumps(schema).decode(), overrides=_OPTIONS)  # type: ignore[arg-type]
        except ValueError as error:
            raise _explain(str(error)) from error
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _explain(matcher.get_error())
        # Some schemas turn out to be too large only at the first free choice, after a brace for example.
        trial = matcher.deep_copy()
        trial.consume_tokens(self._tokenizer.tokenize_bytes(trial.compute_ff_bytes()))
        trial.compute_bitmask()
        if trial.is_error():
            raise _explain(trial.get_error())
        return matcher


class Grammar:
    """A compiled schema, shared by all requests that ask for it."""

    def __init__(
        self,
        matcher: LLMatcher,
        asleep_mask: Tensor,
        newline_id: int | None,
        stop_ids: frozenset[int],
        steer: Callable[[int], Steering] | None = None,
    ) -> None:
        self._matcher = matcher
        self._steer = steer
        self._asleep_mask = asleep_mask
        self._newline_id = newline_id
        self._stop_ids = stop_ids
        self._lock = threading.Lock()

    def start(
        self, *, asleep_until: int | None, asleep_from: int | None = None, max_tokens: int | None = None
    ) -> Constraint:
        """Begin an answer.

        Args:
            asleep_until: with thinking on, the id that ends the thinking: until then anything goes but ending the
                answer. None holds the answer to the schema from its first token.
            asleep_from: the id that begins the thinking, for a model that may also answer at once: then the first token
                is either this, or one that the schema allows. None takes it that the thinking has begun.
            max_tokens: of the answer: it is steered to an end within them where the schema allows one. None is free.
        """
        steering = None if max_tokens is None or self._steer is None else self._steer(max_tokens)
        return Constraint(*self.begin(), asleep_until, asleep_from, steering)

    def begin(self) -> tuple[LLMatcher, Tensor, int | None, frozenset[int]]:
        """Return the first arguments of a `Constraint`: its place in the grammar, and what all answers share."""
        with self._lock:
            matcher = self._matcher.deep_copy()
        return matcher, self._asleep_mask, self._newline_id, self._stop_ids


@dataclass(frozen=True, slots=True)
class Steering:
    """One answer's budget, and what it takes to keep it.

    Attributes:
        budget: follows the answer.
        texts: bytes of each token.
        starts: (W,) tensors per wish of the budget: the tokens that fulfil it; if the grammar allows none, the next.
    """

    budget: JsonBudget
    texts: Sequence[bytes]
    starts: Mapping[Wish, tuple[Tensor, ...]]

    def push(self, token_id: int) -> None:
        """Take the next token of the JSON."""
        self.budget.push(token_id, self.texts[token_id] if token_id < len(self.texts) else b"")

    def narrow(self, mask: Tensor) -> Tensor:
        """Leave of the allowed tokens (W,) those that fulfil the budget's wish; all of them, if none does."""
        if not (wish := self.budget.wish):
            return mask
        for start in self.starts[wish]:
            if bool((narrowed := mask & start).any()):
                return narrowed
        return mask


class Constraint:
    """One row's place in its grammar. Single use: a request that is begun again starts a new one.

    Attributes:
        is_complete: the schema is satisfied and nothing can follow, or the answer was ended.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        asleep_mask: Tensor,
        newline_id: int | None,
        stop_ids: frozenset[int],
        asleep_until: int | None,
        asleep_from: int | None,
        steering: Steering | None = None,
    ) -> None:
        self.is_complete = False
        self._steering = steering
        self._matcher = matcher
        self._asleep_mask = asleep_mask
        self._newline_id = newline_id
        self._stop_ids = stop_ids
        self._asleep_until = asleep_until
        self._is_asleep = asleep_until is not None and asleep_from is None
        # Tokens allowed now in addition to the schema's own.
        self._extra_id = asleep_from if asleep_until is not None and not self._is_asleep else None
        self._mask: Tensor | None = None

    def accept(self, token_id: int) -> None:
        """Take the chosen token.

        Raises:
            GenerationFailedError: if it is one that the schema forbids, or following it grew too complex.
        """
        self._mask = None
        extra_id = None
        if self._is_asleep:
            if token_id == self._asleep_until:
                self._is_asleep = False
                self._extra_id = self._newline_id  # the layout of this model's answers; callers never see it
        else:
            extra_id, self._extra_id = self._extra_id, None
            if token_id != extra_id:
                self._follow(token_id)
                return
            self._is_asleep = token_id != self._newline_id
        if self._steering is not None:
            self._steering.budget.skip()

    def _follow(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            error = self._matcher.get_error()
            if _is_too_complex(error):
                raise _explain(error)
            raise GenerationFailedError(f"The model wrote a token that the JSON Schema forbids ({token_id}).")
        if self._steering is not None:
            self._steering.push(token_id)
        self.is_complete = token_id in self._stop_ids or self._matcher.is_stopped()

    def check(self) -> None:
        """Refuse to go on where the grammar gave up.

        Raises:
            JsonSchemaError: if it grew too complex for its bounds at this place of the answer.
        """
        if self._matcher.is_error():
            raise _explain(self._matcher.get_error())

    def _known_mask(self) -> Tensor | None:
        return self._asleep_mask if self._is_asleep else self._mask

    def _keep(self, mask: Tensor) -> Tensor:
        """Keep this step's mask (W,), so that the step can be done again."""
        if self._steering is not None:
            mask = self._steering.narrow(mask)
        if self._extra_id is not None:
            _set_bit(mask, self._extra_id, value=True)
        self._mask = mask
        return mask


def constrain(logits: Tensor, constraints: Sequence[Constraint | None]) -> Tensor:
    """Put -inf where a row's constraint forbids a token.

    It changes no constraint, so that a step can be done again. The masks are computed on the CPU while a GPU still
    works on the logits.

    Args:
        logits: (B, V), on any device; left as they are.
        constraints: B, in the order of the rows; None for a free row.

    Returns:
        (B, V); the same tensor if all rows are free.
    """
    rows = [index for index, constraint in enumerate(constraints) if constraint is not None]
    if not rows:
        return logits
    num_logits = logits.shape[1]
    masks = _masks([constraint for constraint in constraints if constraint is not None], num_logits)  # (R, W)
    masks = masks.to(logits.device, non_blocking=True)
    bits = torch.arange(32, dtype=torch.int32, device=logits.device)
    is_forbidden = ((masks[:, :, None] >> bits) & 1 == 0).flatten(1)[:, :num_logits]  # (R, V)
    if len(rows) == len(constraints):
        return logits.masked_fill(is_forbidden, float("-inf"))
    index = torch.tensor(rows, device=logits.device)
    return logits.index_copy(0, index, logits[index].masked_fill(is_forbidden, float("-inf")))


def _masks(constraints: Sequence[Constraint], num_logits: int) -> Tensor:
    """Return (R, W) int32, one bit per token."""
    masks = torch.empty(len(constraints), (num_logits + 31) // 32, dtype=torch.int32)
    missing: list[tuple[LLMatcher, int]] = []
    for index, constraint in enumerate(constraints):
        known = constraint._known_mask()
        if known is None:
            missing.append((constraint._matcher, index))
        else:
            masks[index] = known
    if len(missing) == 1:
        ((matcher, index),) = missing
        matcher.unsafe_compute_mask_ptr(masks[index].data_ptr(), masks.shape[1] * 4)
    elif missing:
        _executor().unsafe_compute_mask_ptr(missing, masks.data_ptr(), masks.shape[1] * 4, len(masks))
    for _, index in missing:
        masks[index] = constraints[index]._keep(masks[index].clone())
    return masks


@functools.cache
def _executor() -> LLExecutor:
    return LLExecutor(min(16, os.cpu_count() or 1))


def _full_mask(num_logits: int) -> Tensor:
    return torch.full(((num_logits + 31) // 32,), -1, dtype=torch.int32)


def _set_bit(mask: Tensor, token_id: int, *, value: bool) -> None:
    words = mask.numpy().view(np.uint32)
    bit = np.uint32(1 << (token_id % 32))
    words[token_id // 32] = words[token_id // 32] | bit if value else words[token_id // 32] & ~bit


def _only(token_ids: list[int]) -> int | None:
    return token_ids[0] if len(token_ids) == 1 else None


def _is_too_complex(error: str) -> bool:
    return any(word in error for word in ("fuel", "too many", "Too many", "too large", "max is", "Unable to determine"))


def _explain(error: str) -> JsonSchemaError:
    """Say what llguidance's error means for the schema."""
    if found := re.search(r'Unimplemented keys: \["([^"]+)"', error):
        return unsupported(found[1])
    first = error.strip().split("\n<state>")[0].strip()
    if "oneOf constraints" in first:
        return JsonSchemaError(
            "The JSON Schema keyword 'oneOf' cannot be guaranteed where its options do not exclude each other: use "
            "anyOf, or options of different types or with different 'const' values.",
            message_zh="JSON Schema 的 'oneOf' 选项并不互斥，无法保证：请改用 anyOf，或让各选项的类型或 'const' 不同。",
        )
    if first.startswith("regex parse error"):
        reason = " ".join(first.splitlines()[-1].split())
        return JsonSchemaError(
            f"The JSON Schema's 'pattern' cannot be used: {reason}. Look-around and backreferences are not accepted."
        )
    line = first.splitlines()[0][:200] if first else ""
    if "Unsatisfiable" in first:
        if "Regex is empty" in line:
            return JsonSchemaError(
                "No answer can satisfy the JSON Schema: a pattern, format or length in it rules out the others.",
                message_zh="没有任何回答能满足该 JSON Schema：其中的 pattern、format 或长度互相矛盾。",
            )
        why = line.rpartition("Unsatisfiable schema: ")[2]
        return JsonSchemaError(
            f"No answer can satisfy the JSON Schema: {why}.",
            message_zh=f"没有任何回答能满足该 JSON Schema：{why}。",
        )
    if _is_too_complex(first):
        return JsonSchemaError(
            f"The JSON Schema is too complex ({first.splitlines()[0][:120]}): use fewer optional properties and "
            "simpler patterns.",
            message_zh="JSON Schema 过于复杂：请减少可选属性，使用更简单的 pattern。",
        )
    says = "" if _OF_COMPILER.search(line) else f": {line}"
    return JsonSchemaError(f"The JSON Schema cannot be followed{says}. Accepted are {ACCEPTED}.")
