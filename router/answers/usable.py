"""Whether what an engine wrote is an answer at all.

In: the result of a branch that ended without an error. Out: the same, or the error that an empty answer amounts to: an
answer that nobody can read must not take the place of one that somebody can. Pure functions.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from typing import Final

from router.answers import texts
from router.jobs.job import JobSpec
from router.jobs.results import ErrorRecord, UnitResult, to_error_record

# Special tokens that the model or its server leaked: `</s>`, `<|endoftext|>`, `<unk>`.
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:s|unk|pad|bos|eos|br)\s*/?>|\[(?:PAD|UNK|CLS|SEP)\]")
# Punctuation that is no answer in any number, and punctuation that is none alone. One `-` may be an answer.
_MARKS: Final = frozenset(".。,，、;；:：…·•-—–_*`#>|\"'“”‘’~")
_LONE_MARKS: Final = frozenset(".。,，、;；:：…·•`_")


def is_blank(text: str) -> bool:
    """Whether a text has nothing in it to read: white space, characters without width, special tokens, bare marks."""
    if text[:1].isalnum():  # as nearly all answers begin: not each of their characters has to be looked at
        return False
    bare = "".join(
        char
        for char in _SPECIAL_TOKEN.sub("", text)
        if not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn") and char != "\ufffd"
    )
    return not bare or (bare in _LONE_MARKS if len(bare) == 1 else set(bare) <= _MARKS)


def checked(result: UnitResult, spec: JobSpec) -> UnitResult:
    """Turn an empty answer into a failure; what it cost stays counted.

    An engine that answers alone may be cut before its first word, by a small ``max_tokens`` or one of the caller's
    ``stop`` strings: that is what was asked for, and its finish reason says it.
    """
    if result.error is not None or result.tool_calls or not is_blank(result.text):
        return result
    if len(spec.branches) == 1 and (result.finish_reason == "length" or spec.sampling.stop):
        return result
    return replace(result, text="", logprobs=(), boxes=(), error=_error_of(result.finish_reason))


def _error_of(finish_reason: str) -> ErrorRecord:
    said = {"length": texts.NOTHING_BEFORE_LIMIT, "content_filter": texts.WITHHELD}.get(
        finish_reason, texts.WROTE_NOTHING
    )
    code = "content_filter" if finish_reason == "content_filter" else "empty_answer"
    return to_error_record(said, code=code, status=502)
