"""An engine without weights: it says back what it was given, always the same way.

In: a `GenerationRequest`. Out: ``[echo glm] 1 picture (64x48 png), question: ...``, a word at a time. Used by tests
and gateway benchmarks, and by ``glowl up --models echo``; every answer and the variant say that it is an echo.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncGenerator, Callable

from PIL import Image

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
    TokenLogprob,
    TooManyImagesError,
    Usage,
    fit_max_tokens,
)

DEFAULT_MAX_TOKENS = 512

_MODELS = {"glm": "glm-4.6v-flash", "owl2": "mplug-owl2"}
_THINKERS = frozenset({"glm"})
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
# A word is a run of letters, or one Chinese, Japanese or Korean character, with the white space before it.
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[^\s{_CJK}]+)|\s+")


class EchoEngine:
    """Deterministic stand-in for a model; a token is a word, and a picture is one token of the prompt.

    The name ``glm`` can think: with ``enable_thinking`` it says first how long the question is, as reasoning.
    Asked for log probabilities, it says what is true of an echo: every word is certain (0.0), nothing else could stand
    there (no alternatives).

    Args:
        name: role in the pair; any other name is its own model name.
        delta_delay_s: pause before every delta.
        fail_with: raise this in every answer.
        fail_after_deltas: how many deltas go out before ``fail_with`` is raised.
        context_tokens: prompt and answer together.
        max_images: most pictures in one request.

    Attributes:
        num_running: answers being generated now.
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
    ) -> None:
        self._info = EngineInfo(name, _MODELS.get(name, name), "echo", context_tokens, max_images)
        self.delta_delay_s = delta_delay_s
        self.fail_with = fail_with
        self.fail_after_deltas = fail_after_deltas
        self._is_started = False
        self._closed = asyncio.Event()
        self._changed = asyncio.Event()
        self.num_running = 0
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
            TooManyImagesError: over ``max_images``.
            InvalidImageError: for a picture whose header names no known format.
            ContextLengthError: if the prompt leaves no room in ``context_tokens`` for an answer.
            EngineError: the one given as ``fail_with``.
        """
        self.last_request = request
        if not self._is_started or self._closed.is_set():
            raise EngineUnavailableError("The engine is not running.")
        self.num_running += 1
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
        text = _WORD.findall(_before_stop(self._text(request, pictures), request.sampling.stop))
        kept = text[: max_tokens - len(reasoning)]
        has_logprobs = request.sampling.top_logprobs is not None
        finish_reason: FinishReason = "stop" if len(kept) == len(text) else "length"
        usage = Usage(
            prompt_tokens=num_prompt,
            completion_tokens=len(reasoning) + len(kept),
            image_tokens=len(pictures),
            reasoning_tokens=len(reasoning),
        )
        return [
            *(Delta(reasoning=word) for word in reasoning),
            *(Delta(text=word, logprobs=(_certain(word),) if has_logprobs else ()) for word in kept),
            Delta(finish_reason=finish_reason, usage=usage),
        ]

    def _text(self, request: GenerationRequest, pictures: list[str]) -> str:
        counted = f"{len(pictures) or 'no'} picture{'' if len(pictures) == 1 else 's'}"
        listed = f" ({', '.join(pictures)})" if pictures else ""
        return f"[echo {self._info.name}] {counted}{listed}, question: {request.messages[-1].text}"


def load(name: str, options: EngineOptions) -> EchoEngine:
    """Make the echo that stands in for an engine; none of the options matters to it."""
    del options
    return EchoEngine(name)


def _describe(image: ImagePart) -> str:
    """Read size and format from the header; the pixels stay untouched."""
    try:
        with Image.open(io.BytesIO(image.data), formats=_FORMATS) as picture:
            return f"{picture.width}x{picture.height} {(picture.format or 'picture').lower()}"
    except Exception as error:  # header parsers fed hostile bytes raise nearly anything
        raise InvalidImageError("The bytes are no picture that can be identified.") from error


def _certain(word: str) -> TokenLogprob:
    return TokenLogprob(word, 0.0, word.encode("utf-8", "replace"))


def _before_stop(text: str, stop: tuple[str, ...]) -> str:
    ends = [end for end in (text.find(word) for word in stop) if end >= 0]
    return text[: min(ends, default=len(text))]
