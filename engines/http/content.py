"""What is shown of a streamed answer.

In: deltas as a server sends them. Out: deltas without the marks of a foreign server and without the fence around its
JSON; at the end, the check that JSON is what was asked for. Our own server is held to a schema token by token.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace

from engines import json_check
from engines.base import Delta, FinishReason, GenerationFailedError, GenerationRequest
from engines.http.calls import AnswerCalls
from engines.http.fence import Unfenced
from engines.http.marks import AnswerMarks
from engines.schema_keywords import JsonSchemaError

log = logging.getLogger(__name__)

# The last is a fence's, whose answer is looked at when it has ended.
_FIRST_OF_JSON = frozenset('{["-0123456789tfn`')


class AnswerContent:
    """Reads one answer.

    Args:
        request: what was asked for.
        is_foreign: the server is of another make: it may send the model's marks as text, and ignore the schema.
    """

    def __init__(self, request: GenerationRequest, *, is_foreign: bool) -> None:
        schema = request.sampling.json_schema
        self._schema = schema if is_foreign else None
        self._said: list[str] | None = None if schema is None else []
        self._has_begun = False
        self._marks = AnswerMarks(request) if is_foreign else None
        # Log probabilities belong to the tokens of the fence, too.
        is_unfenced = is_foreign and schema is not None and request.sampling.top_logprobs is None
        self._fence = Unfenced() if is_unfenced else None
        tool_use = request.sampling.tool_use
        self._calls = None if tool_use is None else AnswerCalls(tool_use, is_foreign=is_foreign)

    @property
    def is_over(self) -> bool:
        """A mark has ended the answer; what its server still writes is no part of it."""
        return self._marks is not None and self._marks.is_over

    def read(self, delta: Delta) -> Delta:
        """Return what may be shown after this delta; its finish reason, with what it is, and usage are left out.

        Raises:
            GenerationFailedError: if JSON was asked for, and this cannot be the beginning of any; for a function call
                that was not asked for, or cannot be read.
        """
        is_bare = delta.finish_reason is None and delta.usage is None
        shown = delta if is_bare else replace(delta, finish_reason=None, usage=None, stop_sequence="")
        if self._marks is not None:
            shown = self._marks.read(shown)
        if self._fence is not None:
            shown = replace(shown, text=self._fence.take(shown.text))
        if self._said is not None:
            self._check_first(shown.text)
            self._said.append(shown.text)
        if self._calls is not None:
            return self._calls.read(shown)
        if shown.tool_calls:
            raise GenerationFailedError("The engine called a function although none was offered.")
        return shown

    def _check_first(self, text: str) -> None:
        """Refuse an answer at the first character that no JSON begins with, while nothing of it is shown.

        Raises:
            GenerationFailedError: if it is such a one.
        """
        first = text.lstrip()[:1]
        if not self._has_begun and first:
            self._has_begun = True
            if first not in _FIRST_OF_JSON:
                raise _no_json()

    async def finish(self, finish_reason: FinishReason | None) -> Delta:
        """Return what was kept back, with the reason for which the answer ended.

        Raises:
            GenerationFailedError: if JSON was asked for, and the finished answer is none or breaks the schema; if its
                function calls are not what was asked for.
        """
        rest = Delta() if self._marks is None else self._marks.finish(finish_reason)
        if self._fence is not None:
            rest = replace(rest, text=self._fence.take(rest.text) + self._fence.finish())
        if self.is_over and finish_reason != "content_filter":
            finish_reason = "stop"
        if self._said is not None and finish_reason == "stop":
            await asyncio.to_thread(_check_json, "".join(self._said) + rest.text, self._schema)
        if self._calls is not None:
            return await self._calls.finish(rest, finish_reason)
        if finish_reason == "tool_calls":
            raise GenerationFailedError("The engine broke its answer off: 'tool_calls'.")
        return replace(rest, finish_reason=finish_reason)


def _check_json(text: str, schema: str | None) -> None:
    """Refuse what is no JSON; with a schema, also what is not strictly JSON or breaks the schema.

    Raises:
        GenerationFailedError: if it is refused.
    """
    try:
        if schema is None:
            json.loads(text)
            return
        value = json_check.parse(text)
    except ValueError as error:
        raise _no_json() from error
    try:
        problem = json_check.to_check(schema)(value)
    except (json_check.UncheckableSchemaError, JsonSchemaError) as error:
        log.info("an answer was not held against its schema: %s", error)
        return
    if problem is not None:
        raise GenerationFailedError(
            "The engine's answer is JSON, but breaks the JSON Schema: its server ignores 'response_format' "
            f"({problem})."
        )


def _no_json() -> GenerationFailedError:
    return GenerationFailedError(
        "The engine's answer is no JSON although it was asked for JSON: its server ignores 'response_format'."
    )
