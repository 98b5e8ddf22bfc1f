"""How many tokens a text has at least, without tokenizing it: megabytes take seconds, and most of them cannot fit.

In: the vocabulary of a byte-level tokenizer, then texts. Out: a number of tokens that no text falls below.
"""

from __future__ import annotations

import json
from typing import Final

import numpy as np
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from engines.glm.parsing import TokenBytes

# Shorter texts take a few ms to tokenize.
_SHORT_BYTES: Final = 64 * 1024


class TokenBound:
    """Two bounds: by the longest token, and by how often each byte comes in any one token.

    The second is for runs: a token of 128 spaces says nothing about a million newlines, of which a token has eight.

    Args:
        longest: bytes of the longest token.
        most: by byte, how often it comes in the token that has most of it.
    """

    def __init__(self, longest: int, most: list[int]) -> None:
        self.longest = longest
        self._most = np.array(most)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenBound | None:
        """Read the vocabulary; None if the tokenizer may drop or change some of a text."""
        model = json.loads(tokenizer.to_str())
        vocab = tokenizer.get_vocab(with_added_tokens=False)
        if model["normalizer"] is not None or not vocab.keys() >= set(ByteLevel.alphabet()):
            return None
        token_bytes = TokenBytes(tokenizer)
        longest, most = 0, [1] * 256
        for token_id in tokenizer.get_vocab().values():
            token = token_bytes.of(token_id)
            longest = max(longest, len(token))
            for byte in set(token):
                most[byte] = max(most[byte], token.count(byte))
        return cls(longest, most)

    def least_tokens(self, texts: list[bytes]) -> int:
        """Return how many tokens texts have at least, in UTF-8."""
        size = sum(map(len, texts))
        least = -(-size // self.longest)
        if size > _SHORT_BYTES:
            counts = sum(np.bincount(np.frombuffer(text, np.uint8), minlength=256) for text in texts)
            least = max(least, int(np.max(-(-counts // self._most))))
        return least
