"""When two requests have the same answer: the same owner asks the same of the same models under the same rules.

In: a `Call`, and what is known of the engines and the rules. Out: a `CacheKey`. What changes nothing about the answer,
such as metadata, streaming or the id of the user, is no part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson

from engines.base import ImagePart, TextPart
from engines.image_header import read_header
from engines.image_layout import TooManyBlocksError
from policies.multi_hop_weights import fingerprint
from policies.rules import Rules
from router.call import Call

# Of a SHA-256, in hex: 128 bits tell an owner's own questions apart.
_HEX: Final = 32


def _release() -> str:
    try:
        return version("glowl")
    except PackageNotFoundError:
        return ""


# Another release may prepare prompts, or merge answers, in another way.
_RELEASE: Final = _release()


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a request is looked up by.

    Attributes:
        owner: whose.
        question: hash of everything but what the pictures show.
        sent: hash of the pictures' files, in order; empty without pictures.
        images: the pictures, in order.
        engines: whose weights are part of the question; of the others nothing was heard yet.
    """

    owner: str
    question: str
    sent: str
    images: tuple[ImagePart, ...]
    engines: frozenset[str] = frozenset()

    def name(self, pixels: Sequence[str]) -> str:
        """Return the name of the answer.

        Args:
            pixels: hashes of what the pictures show, in order.
        """
        return _digest([self.question, *pixels])


def to_key(call: Call, revisions: Mapping[str, str], rules: str) -> CacheKey | None:
    """Return what a call is looked up by; None if it may have another answer each time.

    Args:
        call: of whichever wire shape.
        revisions: of the engines, by name.
        rules: hash of the policy's.
    """
    if not is_repeatable(call):
        return None
    try:
        sizes = {image.sha256: _size_of(image) for image in call.images}
    except (ValueError, TooManyBlocksError):  # no picture after all, as its engine will say
        return None
    asked: list[Any] = [
        _RELEASE,
        call.owner,
        [
            [
                each.role,
                [part.text if isinstance(part, TextPart) else sizes[part.sha256] for part in each.parts],
                *map(asdict, each.tool_calls),
            ]
            for each in call.messages
        ],
        asdict(call.sampling),
        asdict(call.hints),
        [call.strategy, call.dial, call.adapter, call.wants_thinking, *sorted(call.promoted.items())],
        None if call.output_format is None else asdict(call.output_format),
        revisions,
        rules,
    ]
    images = call.images
    sent = _digest([image.sha256 for image in images]) if images else ""
    return CacheKey(call.owner, _digest(asked), sent, images, frozenset(revisions))


def is_repeatable(call: Call) -> bool:
    """Whether the same call has the same answer: the likeliest token each time, or chance that is seeded.

    One that may call functions has not: the ids of calls are new each time.
    """
    if call.sampling.tool_use is not None:
        return False
    return not call.sampling.temperature or call.sampling.seed is not None


class RulesRevision:
    """The hash of the rules and the weights behind them, made once for as long as the rules stay the same object."""

    def __init__(self) -> None:
        self._rules: Rules | None = None
        self._revision = ""

    def of(self, rules: Rules) -> str:
        """Return it."""
        if rules is not self._rules:
            self._rules, self._revision = rules, _digest([rules.model_dump(mode="json"), fingerprint()])
        return self._revision


def _size_of(image: ImagePart) -> list[int]:
    header = read_header(image.data)
    # In this order a picture that EXIF turns has the size of the upright one.
    return sorted((header.width_px, header.height_px))


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:_HEX]
