"""An engine without weights: it says back what it was given, always the same way.

In: a `GenerationRequest`. Out: ``[echo glm] 1 picture (64x48 png), question: ...``, a word at a time. Used by tests
and gateway benchmarks, and by ``glowl up --models echo``; every answer and the variant say that it is an echo.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import re
from collections.abc import AsyncGenerator, Callable
from itertools import takewhile
from typing import Any

from PIL import Image

from engines.adapter_names import MODEL_NAMES, check_adapter, model_with
from engines.base import (
    Delta,
    EngineError,
    EngineInfo,
    EngineOptions,
    EngineUnavailableError,
    FinishReason,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    InvalidRequestError,
    TokenLogprob,
    TooManyImagesError,
    Usage,
    fit_max_tokens,
)
from engines.echo_tools import scripted_calls
from engines.json_schema import ANY_OBJECT, FORMATS, JsonSchemaError, from_schema_text, resolve
from engines.token_costs import TokenCosts
from engines.tools import ToolCall, ToolCallDelta

DEFAULT_MAX_TOKENS = 512

_THINKERS = frozenset({"glm"})
_JSON_WRITERS = frozenset({"glm"})
_CALLERS = frozenset({"glm"})
_MAX_JSON_DEPTH = 40
_MAX_JSON_STEPS = 5_000
_UNKNOWN = frozenset({"pattern", "patternProperties", "minProperties", "allOf"})
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
# A word is a run of letters, or one Chinese, Japanese or Korean character, with the white space before it.
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[^\s{_CJK}]+)|\s+")


class EchoEngine:
    """Deterministic stand-in for a model; a token is a word, and a picture is one token of the prompt.

    The name ``glm`` can think: with ``enable_thinking`` it says first how long the question is, as reasoning.
    Asked for log probabilities, it says what is true of an echo: every word is certain (0.0), nothing else could stand
    there (no alternatives).

    Held to a JSON Schema, ``glm`` answers with a small value that satisfies it: the required properties only, no item
    more than is asked for, 0, false, and the word "echo". Any object at all has the echo inside. What has no such
    obvious value (``pattern``, ``format``, several schemas at once) it refuses by name.

    ``glm`` calls functions as `engines.echo_tools` has it; any other name refuses them.

    Args:
        name: role in the pair; any other name is its own model name.
        delta_delay_s: pause before every delta.
        fail_with: raise this in every answer.
        fail_after_deltas: how many deltas go out before ``fail_with`` is raised.
        context_tokens: prompt and answer together.
        max_images: most pictures in one request.
        adapters: names that a request may ask for; the answer says which one it did.

    Attributes:
        num_running: answers being generated now.
        num_started: answers ever begun.
        num_cancelled: answers whose caller went away before the end.
        last_request: the newest request it was given, refused ones too.
        delta_delay_s, fail_with, fail_after_deltas: as given; may be changed at any time.
    """

    def __init__(
        self,
        name: str = "glm",
        *,
        delta_delay_s: float = 0.0,
        fail_with: EngineError | None = None,
        fail_after_deltas: int = 0,
        context_tokens: int = 8192,
        max_images: int = 16,
        adapters: tuple[str, ...] = (),
    ) -> None:
        costs = TokenCosts(DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS, tokens_per_picture=1)
        self._info = EngineInfo(
            name, MODEL_NAMES.get(name, name), "echo", context_tokens, max_images, adapters, costs=costs
        )
        self.delta_delay_s = delta_delay_s
        self.fail_with = fail_with
        self.fail_after_deltas = fail_after_deltas
        self._is_started = False
        self._closed = asyncio.Event()
        self._changed = asyncio.Event()
        self.num_running = 0
        self.num_started = 0
        self.num_cancelled = 0
        self.last_request: GenerationRequest | None = None

    async def info(self) -> EngineInfo:
        """Describe the engine."""
        return self._info

    async def start(self) -> None:
        """Be ready at once."""
        self._is_started = True

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Say the request back.

        Raises:
            EngineUnavailableError: before `start` and after `aclose`.
            UnknownAdapterError: for an adapter that is not among ``adapters``.
            TooManyImagesError: over ``max_images``.
            InvalidImageError: for a picture whose header names no known format.
            ContextLengthError: if the prompt leaves no room in ``context_tokens`` for an answer.
            InvalidRequestError: for a JSON Schema or functions, by every name but ``glm``.
            JsonSchemaError: for a JSON Schema that it has no value for.
            EngineError: the one given as ``fail_with``.
        """
        self.last_request = request
        if not self._is_started or self._closed.is_set():
            raise EngineUnavailableError("The engine is not running.")
        self.num_running += 1
        self.num_started += 1
        self._changed.set()
        is_complete = False
        try:
            for num_sent, delta in enumerate(self._answer(request)):
                await self._pause()
                if self.fail_with is not None and num_sent >= self.fail_after_deltas:
                    raise self.fail_with.with_traceback(None)
                is_complete = delta.finish_reason is not None
                yield delta
        except (GeneratorExit, asyncio.CancelledError):
            self.num_cancelled += not is_complete  # closing after the last delta cancels nothing
            raise
        finally:
            self.num_running -= 1
            self._changed.set()

    async def count(self, request: GenerationRequest) -> Usage:
        """See `engines.base.CountsTokens`; a token is a word, or a picture."""
        if not self._is_started or self._closed.is_set():
            raise EngineUnavailableError("The engine is not running.")
        num_words = sum(len(_WORD.findall(message.text)) for message in request.messages)
        return Usage(prompt_tokens=num_words + len(request.images), image_tokens=len(request.images))

    async def aclose(self) -> None:
        """Break off running answers with `EngineUnavailableError`, and refuse new ones."""
        self._closed.set()

    async def wait_for(self, condition: Callable[[EchoEngine], bool]) -> None:
        """Return as soon as a condition on the counters holds; for tests that must not sleep."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    async def _pause(self) -> None:
        """Let others run, and notice `aclose` at once even in a long pause."""
        if self.delta_delay_s:
            try:
                await asyncio.wait_for(self._closed.wait(), self.delta_delay_s)
            except TimeoutError:
                return
        else:
            await asyncio.sleep(0)
        if self._closed.is_set():
            raise EngineUnavailableError("The engine is shutting down.")

    def _answer(self, request: GenerationRequest) -> list[Delta]:
        check_adapter(request.adapter, self._info)
        if len(request.images) > self._info.max_images:
            raise TooManyImagesError(
                f"{len(request.images)} pictures in one request; this engine accepts at most {self._info.max_images}.",
                param="messages",
            )
        pictures = [_describe(image) for image in request.images]
        words = [word for message in request.messages for word in _WORD.findall(message.text)]
        num_prompt = len(words) + len(pictures)
        max_tokens = fit_max_tokens(
            num_prompt, request.sampling.max_tokens, DEFAULT_MAX_TOKENS, self._info.context_tokens
        )

        reasoning: list[str] = []
        if request.enable_thinking and self._info.name in _THINKERS:
            num_question = len(_WORD.findall(request.messages[-1].text))
            reasoning = _WORD.findall(f"[echo {self._info.name}] the question has {num_question} words")[:max_tokens]
        said, calls = self._called(request)
        whole = self._answer_text(request, pictures) if said is None else said
        shown, stop = _before_stop(whole, request.sampling.stop)
        text = _WORD.findall(shown)
        pieces = _pieces(calls)
        kept = text[: max_tokens - len(reasoning)]
        kept_pieces = pieces[: max(max_tokens - len(reasoning) - len(text), 0)]
        has_logprobs = request.sampling.top_logprobs is not None
        is_whole = len(kept) == len(text) and len(kept_pieces) == len(pieces)
        finish_reason: FinishReason = "length" if not is_whole else "tool_calls" if calls else "stop"
        usage = Usage(
            prompt_tokens=num_prompt,
            completion_tokens=len(reasoning) + len(kept) + len(kept_pieces),
            image_tokens=len(pictures),
            reasoning_tokens=len(reasoning),
        )
        return [
            *(Delta(reasoning=word) for word in reasoning),
            *(Delta(text=word, logprobs=(_certain(word),) if has_logprobs else ()) for word in kept),
            *(Delta(tool_calls=(piece,)) for piece in kept_pieces),
            Delta(finish_reason=finish_reason, usage=usage, stop_sequence=stop if finish_reason == "stop" else ""),
        ]

    def _called(self, request: GenerationRequest) -> tuple[str | None, tuple[ToolCall, ...]]:
        """Return what is said before the calls, None for the usual words, and the calls."""
        if request.sampling.tool_use is not None and self._info.name not in _CALLERS:
            raise InvalidRequestError(f"{self._info.model_id} calls no functions: leave 'tools' out.", param="tools")
        found = scripted_calls(request, lambda root: _Example(root).of(root))
        return (None, ()) if found is None else found

    def _answer_text(self, request: GenerationRequest, pictures: list[str]) -> str:
        text, schema = self._text(request, pictures), request.sampling.json_schema
        if schema is None:
            return text
        if self._info.name not in _JSON_WRITERS:
            raise InvalidRequestError(
                f"{self._info.model_id} cannot hold its answers to a JSON Schema: leave 'response_format' out.",
                param="response_format",
            )
        value = {"echo": text} if schema == ANY_OBJECT else _Example(root := from_schema_text(schema)).of(root)
        return json.dumps(value, ensure_ascii=False)

    def _text(self, request: GenerationRequest, pictures: list[str]) -> str:
        counted = f"{len(pictures) or 'no'} picture{'' if len(pictures) == 1 else 's'}"
        listed = f" ({', '.join(pictures)})" if pictures else ""
        name = model_with(self._info.name, request.adapter)
        if request.messages[-1].role == "tool":
            return f"[echo {name}] results: {' | '.join(_results(request))}"
        return f"[echo {name}] {counted}{listed}, question: {request.messages[-1].text}"


def load(name: str, options: EngineOptions) -> EchoEngine:
    """Make the echo that stands in for an engine; of the options, only the names of its adapters matter to it."""
    return EchoEngine(name, adapters=tuple(adapter for adapter, _source in options.adapters))


def _results(request: GenerationRequest) -> list[str]:
    """Return the results at the end of a conversation, in order."""
    ended = takewhile(lambda message: message.role == "tool", reversed(request.messages))
    return [message.text for message in ended][::-1]


def _describe(image: ImagePart) -> str:
    """Read size and format from the header; the pixels stay untouched."""
    try:
        with Image.open(io.BytesIO(image.data), formats=_FORMATS) as picture:
            return f"{picture.width}x{picture.height} {(picture.format or 'picture').lower()}"
    except Exception as error:  # header parsers fed hostile bytes raise nearly anything
        raise InvalidImageError("The bytes are no picture that can be identified.") from error


class _Example:
    """Finds a small value that satisfies a schema, in at most so many steps: options may be tried on 2**n paths.

    Args:
        root: the schema.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._num_left = _MAX_JSON_STEPS

    def of(self, schema: Any, depth: int = 0) -> Any:
        """Return the value.

        Raises:
            JsonSchemaError: if there is none that this engine could find.
        """
        if not isinstance(schema, dict):
            return None
        self._num_left -= 1
        if depth > _MAX_JSON_DEPTH or self._num_left < 0:
            raise JsonSchemaError("The echo engine has no value for a JSON Schema that needs itself.")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        refused = sorted(_UNKNOWN & set(schema))
        if refused or schema.get("format") in FORMATS:
            keyword = refused[0] if refused else "format"
            raise JsonSchemaError(f"The echo engine has no value for the JSON Schema keyword '{keyword}'.")
        if "$ref" in schema:
            return self.of(resolve(self._root, schema["$ref"]), depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                *others, last = schema[keyword]
                for option in others:
                    with contextlib.suppress(JsonSchemaError):
                        return self.of(option, depth + 1)
                return self.of(last, depth + 1)
        return self._of_kind(schema, depth)

    def _of_kind(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0]
        if kind == "object" or (kind is None and "properties" in schema):
            properties = schema.get("properties", {})
            return {key: self.of(properties.get(key, {}), depth + 1) for key in schema.get("required", ())}
        if kind == "array":
            first = schema.get("prefixItems", [])
            return [
                self.of(first[place] if place < len(first) else schema.get("items"), depth + 1)
                for place in range(schema.get("minItems", 0))
            ]
        if kind == "string":
            long_enough = "echo" * math.ceil(max(schema.get("minLength", 0), 4) / 4)
            return long_enough[: schema.get("maxLength", max(schema.get("minLength", 0), 4))]
        if kind in ("integer", "number"):
            return _example_number(schema, step=schema.get("multipleOf", 1))
        return False if kind == "boolean" else None


def _example_number(schema: dict[str, Any], step: float) -> Any:
    """Return the multiple of ``step`` within the bounds that is nearest to 0."""
    low = schema.get("minimum", schema.get("exclusiveMinimum", -math.inf))
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    if low > 0 or schema.get("exclusiveMinimum") == 0:
        value = math.ceil(low / step) * step
        return value + step if value == schema.get("exclusiveMinimum") else value
    if high < 0 or schema.get("exclusiveMaximum") == 0:
        value = math.floor(high / step) * step
        return value - step if value == schema.get("exclusiveMaximum") else value
    return 0


def _pieces(calls: tuple[ToolCall, ...]) -> list[ToolCallDelta]:
    """Cut calls as they are streamed: the name, then the arguments a word at a time."""
    pieces: list[ToolCallDelta] = []
    for index, call in enumerate(calls):
        pieces.append(ToolCallDelta(index, call.id, call.name))
        pieces += [ToolCallDelta(index, arguments=word) for word in _WORD.findall(call.arguments)]
    return pieces


def _certain(word: str) -> TokenLogprob:
    return TokenLogprob(word, 0.0, word.encode("utf-8", "replace"))


def _before_stop(text: str, stop: tuple[str, ...]) -> tuple[str, str]:
    """Return the text before the first stop string, and that one; all of it and nothing if it has none."""
    end, found = min(((end, word) for word in stop if (end := text.find(word)) >= 0), default=(len(text), ""))
    return text[:end], found
