"""Text to token ids and back, as the reference's tokenizer does it.

In: text, or pieces of text with tokens between them. Out: ids in which -200 stands for an image; and text again, as a
whole or token by token. Made on sentencepiece itself: transformers 5 converts ``tokenizer.model`` to another algorithm,
which gives other ids for text that begins with a space.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from engines.base import ImagePart
from engines.owl2.config import IMAGE_TOKEN_ID
from engines.owl2.files import CheckpointError
from engines.owl2.prompts import IMAGE_MARKER, EndOfTurn, Prompt

SPACE = "\u2581"
"""sentencepiece's visible stand-in for a space."""


class Owl2Tokenizer:
    """A LLaMA sentencepiece tokenizer with the rules transformers 4.31 put around it.

    Safe to use from several threads.

    Args:
        model_file: ``tokenizer.model``.
        legacy: whether text after a special token gets a prefix space of its own. True is what the published LLaMA
            tokenizers were made with; a checkpoint's ``tokenizer_config.json`` decides.

    Raises:
        CheckpointError: if the file is missing or no sentencepiece model.
    """

    def __init__(self, model_file: Path, *, legacy: bool) -> None:
        try:
            self._pieces = SentencePieceProcessor(model_file=str(model_file))
        except (OSError, RuntimeError) as error:  # which of the two depends on what is wrong with the file
            raise CheckpointError(f"{model_file} is no sentencepiece model: {error}") from error
        self.legacy = legacy
        self.bos_token_id = self._pieces.bos_id()
        self.eos_token_id = self._pieces.eos_id()
        self.unk_token_id = self._pieces.unk_id()
        self.vocab_size = self._pieces.get_piece_size()
        self._special = {
            self._pieces.id_to_piece(token_id): token_id
            for token_id in (self.unk_token_id, self.bos_token_id, self.eos_token_id)
        }
        # Without byte tokens, one unknown token stands for a run of any length.
        kinds = range(self.vocab_size)
        has_bytes = any(self._pieces.is_byte(token_id) for token_id in kinds)
        texts = [self._pieces.id_to_piece(token_id) for token_id in kinds if not self._pieces.is_byte(token_id)]
        self.longest_token: int | None = max(map(len, texts)) if has_bytes else None
        """Most characters one token can stand for, as `least_chars` counts them; None if there is no such bound."""
        self._split_special = re.compile("(" + "|".join(re.escape(token) for token in self._special) + ")")

    @classmethod
    def from_folder(cls, folder: Path) -> Owl2Tokenizer:
        """Load a checkpoint's tokenizer.

        Raises:
            CheckpointError: if ``tokenizer.model`` is missing or no sentencepiece model.
        """
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
        return cls(folder / "tokenizer.model", legacy=config.get("legacy", True))

    def encode(self, text: str) -> list[int]:
        """Encode a text in which ``<s>``, ``</s>`` and ``<unk>`` are tokens; BOS in front, no EOS.

        For prompts written by hand and for training data. Text of a user goes through `encode_prompt`.
        """
        return self.encode_pieces([self._special.get(piece, piece) for piece in self._split_special.split(text)])

    def encode_pieces(self, pieces: Sequence[str | int]) -> list[int]:
        """Encode one chunk: texts, taken literally, with token ids between them; BOS in front, no EOS."""
        ids = [self.bos_token_id]
        for index, piece in enumerate(pieces):
            if isinstance(piece, int):
                ids.append(piece)
            elif self.legacy:
                ids += self._pieces.encode(piece)
            else:
                # In non-legacy mode the visible space is no way to write a space token ...
                ids += self._encode_literal(piece.replace(SPACE, " "), is_first=index == 0)
        return ids

    def _encode_literal(self, text: str, *, is_first: bool) -> list[int]:
        pieces: list[str] = self._pieces.encode(text, out_type=str)
        # ... and only the start of a chunk, or text with a space of its own, begins with one.
        if not is_first and pieces and not text.startswith(" ") and pieces[0].startswith(SPACE):
            # Cutting the space off the first piece, and not encoding without it, is what the reference does.
            pieces[:1] = [pieces[0][1:]] if len(pieces[0]) > 1 else []
        return [self._pieces.piece_to_id(piece) for piece in pieces]

    def encode_with_images(self, text: str) -> list[int]:
        """Encode a text in which ``<|image|>`` stands for a picture, and special tokens are tokens; see `encode`."""
        return self._join_chunks(self.encode(chunk) if chunk else [] for chunk in text.split(IMAGE_MARKER))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Encode a rendered conversation; every text in it is taken literally."""
        chunks: list[list[str | int]] = [[]]
        for piece in prompt.pieces:
            if isinstance(piece, ImagePart):
                chunks.append([])
            else:
                chunks[-1].append(self.eos_token_id if isinstance(piece, EndOfTurn) else piece)
        return self._join_chunks(self.encode_pieces(chunk) if chunk else [] for chunk in chunks)

    def least_chars(self, prompt: Prompt) -> int:
        """Return how many characters of a prompt's texts are left to be split into tokens."""
        # Each text gets a space in front, which may be dropped again.
        texts = [self._pieces.normalize(piece) for piece in prompt.pieces if isinstance(piece, str)]
        return sum(len(text) - 1 for text in texts if text)

    def _join_chunks(self, chunks: Iterable[list[int]]) -> list[int]:
        """Put -200 between chunks and keep one BOS.

        If the first chunk is empty, that is if the prompt begins with a picture, every other chunk keeps its BOS: so
        the reference does, and so the model was trained.
        """
        first, *others = chunks
        num_dropped = 1 if first else 0
        ids = list(first)
        for chunk in others:
            ids += [IMAGE_TOKEN_ID, *chunk[num_dropped:]]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes a token stands for; nothing for special tokens and ids outside the vocabulary.

        A byte token stands for one byte, which need not be valid UTF-8 by itself.
        """
        if not 0 <= token_id < self.vocab_size or self._pieces.is_control(token_id) or token_id == self.unk_token_id:
            return b""
        piece: str = self._pieces.id_to_piece(token_id)
        if self._pieces.is_byte(token_id):
            return bytes([int(piece[1:-1], 16)])  # "<0x0A>"
        return piece.replace(SPACE, " ").encode()

    def token_text(self, token_id: int) -> str:
        """Name a token: its text, broken UTF-8 replaced, or ``</s>`` and the like; nothing outside the vocabulary."""
        if token_id in self._special.values():
            return str(self._pieces.id_to_piece(token_id))
        return self.token_bytes(token_id).decode(errors="replace")

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Turn tokens into text: the first prefix space dropped, broken UTF-8 replaced.

        Args:
            token_ids: ids that are no tokens, such as those of pictures, have no text.
            skip_special_tokens: leave ``<s>``, ``</s>`` and ``<unk>`` out. Otherwise they are shown, and as in the
                reference each text loses its prefix space, but gets one if a special token ends it.
        """
        if skip_special_tokens:
            decoder = IncrementalDecoder(self)
            return "".join([*(decoder.push(token_id) for token_id in token_ids), decoder.finish()])
        shown = {token_id: token for token, token_id in self._special.items()}
        text, run = "", list[int]()
        for token_id in token_ids:
            if token_id in shown:
                text += (f" {self.decode(run)}" if run else "") + shown[token_id]
                run = []
            else:
                run.append(token_id)
        return text + self.decode(run)


class IncrementalDecoder:
    """Token by token to text; what it returns, joined, is `Owl2Tokenizer.decode` of all tokens.

    A character whose bytes are spread over several tokens is held back until it is whole.

    Args:
        tokenizer: whose tokens.
    """

    def __init__(self, tokenizer: Owl2Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_first = True

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that became certain, often one word, sometimes nothing."""
        data = self._tokenizer.token_bytes(token_id)
        if data and self._is_first:
            data, self._is_first = data.removeprefix(b" "), False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """Return what was held back; an unfinished character comes as U+FFFD."""
        return self._utf8.decode(b"", final=True)
