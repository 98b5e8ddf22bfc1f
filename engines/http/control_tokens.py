"""Control tokens in callers' texts, broken up for servers that would take them for true ones.

In: any text. Out: the same, with an invisible character inside each control token. Our engines encode a caller's
``<|assistant|>`` or ``<|image|>`` as plain text (transformers from 5.20). vLLM and SGLang render the conversation to
one text first: there a quoted page or a function's result would open a turn of its own, and an ``<|image|>`` would be
a picture that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# Stays in the text that the model reads, and splits the token whatever the tokenizer.
BREAK: Final = "\u2060"  # word joiner
# GLM's tokens, and those of the same look that other models have: <|im_start|>, <|eot_id|>.
_LONGEST: Final = 80
_TOKEN: Final = re.compile(
    r"(<)(?=\|[a-zA-Z0-9_.-]{1,64}\|>)"
    r"|(<)(?=/?(?:think|tool_call|tool_response|arg_key|arg_value|sop|eop|s)>)"
    r"|(\[)(?=[gs]?MASK\])"
    r"|(/)(?=nothink)"
)


def without_control_tokens(text: str) -> str:
    """Break up every control token; a text without any is returned as it is."""
    if "<" not in text and "[" not in text and "/nothink" not in text:
        return text
    return _TOKEN.sub(rf"\g<0>{BREAK}", text)


def without_control_tokens_in(texts: Sequence[str]) -> list[str]:
    """Break up every control token in texts that are joined later, also one that lies in several of them."""
    broken, tail = [], ""
    for text in texts:
        joint = tail + text[:_LONGEST]
        begun = {match.start() for match in _TOKEN.finditer(joint)} - {match.start() for match in _TOKEN.finditer(tail)}
        lies_in_both = any(start < len(tail) for start in begun)
        broken.append((BREAK if lies_in_both else "") + without_control_tokens(text))
        tail = (tail + text)[-_LONGEST:]
    return broken
