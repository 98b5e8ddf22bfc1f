"""The conversation template: messages in, the pieces of one prompt out.

In: the messages of a request. Out: text, pictures and ends of turn in order. Pieces instead of one string, so that text
of a user that looks like a picture marker or an end of turn stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from engines.base import ImagePart, InvalidRequestError, Message, Part, TextPart

IMAGE_MARKER = "<|image|>"
END_OF_TURN_TEXT = "</s>"

TEMPLATES = {
    "mplug_owl2": "",
    "v1": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    ),
}
"""What stands before the first turn. ``mplug_owl2`` is for inference, ``v1`` is what the training scripts use."""


class EndOfTurn(Enum):
    """The token after each answer; an enum of one member, so that it can never be mistaken for text."""

    TOKEN = END_OF_TURN_TEXT


PromptPiece = str | ImagePart | EndOfTurn


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        pieces: in order; neighbouring texts are joined, so each chunk between pictures is tokenised as one.
    """

    pieces: tuple[PromptPiece, ...]

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The pictures, in the order of their markers."""
        return tuple(piece for piece in self.pieces if isinstance(piece, ImagePart))

    @property
    def text(self) -> str:
        """The prompt as one string, for logs and tests; not for tokenising."""
        return "".join(
            IMAGE_MARKER
            if isinstance(piece, ImagePart)
            else END_OF_TURN_TEXT
            if isinstance(piece, EndOfTurn)
            else piece
            for piece in self.pieces
        )


def _put_images_first(parts: Sequence[Part]) -> list[Part]:
    """Move pictures that come after all of a turn's text before it.

    The model has only seen a picture before the question about it. Pictures with text between or after them were
    placed by somebody who meant it ("First: A. Second: B."), and stay.
    """
    kinds = [kind for kind, _ in groupby(isinstance(part, ImagePart) for part in parts)]
    if kinds == [False, True]:
        return sorted(parts, key=lambda part: isinstance(part, TextPart))  # stable: the order among pictures stays
    return list(parts)


def _user_pieces(messages: Sequence[Message], system: str) -> list[PromptPiece]:
    """Render one turn of the user, several messages in a row joined by a newline."""
    parts: list[Part] = []
    for message in messages:
        ordered = _put_images_first(message.parts)
        if parts and ordered:
            parts.append(TextPart("\n"))
        parts.extend(ordered)
    pieces: list[PromptPiece] = [part.text if isinstance(part, TextPart) else part for part in parts]
    if system:
        first_text = next((index for index, piece in enumerate(pieces) if isinstance(piece, str)), len(pieces))
        pieces.insert(first_text, f"{system}\n" if first_text < len(pieces) else system)
    return pieces


def _join_texts(pieces: Sequence[PromptPiece]) -> tuple[PromptPiece, ...]:
    joined: list[PromptPiece] = []
    for is_text, group in groupby(pieces, key=lambda piece: isinstance(piece, str)):
        if not is_text:
            joined.extend(group)
        elif text := "".join(piece for piece in group if isinstance(piece, str)):
            joined.append(text)
    return tuple(joined)


def render(messages: Sequence[Message], template: str = "mplug_owl2") -> Prompt:
    """Render a conversation.

    A turn of the user ends open (``ASSISTANT:``), ready for the answer; a conversation that ends with an answer is
    closed. The template has no place for a system text, so system messages are put before the first text of the first
    turn of the user, on a line of their own.

    Args:
        messages: oldest first.
        template: a key of `TEMPLATES`.

    Raises:
        InvalidRequestError: if there is no message of the user, or a picture in a message of anybody else.
    """
    for message in messages:
        if message.images and message.role != "user":
            raise InvalidRequestError(f"a {message.role} message cannot hold pictures", param="messages")
    system = "\n".join(text for message in messages if message.role == "system" and (text := message.text))
    turns = [message for message in messages if message.role != "system"]
    if not any(message.role == "user" for message in turns):
        raise InvalidRequestError("there is no message of the user to answer", param="messages")

    pieces: list[PromptPiece] = [TEMPLATES[template]]
    is_open = False
    for role, group in groupby(turns, key=lambda message: message.role):
        if role == "user":
            pieces += ["USER: ", *_user_pieces(list(group), system), " "]
            system, is_open = "", True
        else:
            pieces += ["ASSISTANT: ", "\n".join(message.text for message in group), EndOfTurn.TOKEN]
            is_open = False
    if is_open:
        pieces.append("ASSISTANT:")
    return Prompt(_join_texts(pieces))
