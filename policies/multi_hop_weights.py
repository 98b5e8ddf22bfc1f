"""What the words of a question weigh in the multi-hop score.

In: a file of weights, shipped or fitted on an owner's log. Out: `Weights` per language, one set for the whole process.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

Scored = Literal["en", "zh"]
LANGUAGES: Final[tuple[Scored, ...]] = ("en", "zh")


class WeightsError(ValueError):
    """A file of weights cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one language.

    Attributes:
        bias: the sum without anything.
        length: per natural logarithm of the number of words.
        cues: by name: per find, and how many finds count.
    """

    bias: float
    length: float
    cues: Mapping[str, tuple[float, int]]


WeightsSet = Mapping[Scored, Weights]


def current() -> WeightsSet:
    """Return the weights in use."""
    return _IN_USE.get("set") or shipped()


def use(weights: WeightsSet | None) -> None:
    """Let this process score by other weights from now on; None for those that are shipped."""
    _IN_USE["set"] = weights


def use_file(path: Path | None) -> None:
    """Let this process score by the weights in a file; None for those that are shipped.

    Raises:
        WeightsError: naming the file, if it cannot be used.
    """
    if path is None:
        use(None)
        return
    try:
        use(parse(path.read_text(encoding="utf-8"), shipped()))
    except (OSError, UnicodeDecodeError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from None


def fingerprint() -> str:
    """Return a name that changes with the weights in use."""
    return hashlib.sha256(to_text(current()).encode()).hexdigest()[:16]


@cache
def shipped() -> WeightsSet:
    """Return the weights that come with the package."""
    return parse(resources.files("policies").joinpath("weights/multi_hop.json").read_text(encoding="utf-8"), None)


def parse(text: str, like: WeightsSet | None) -> WeightsSet:
    """Read a file of weights.

    Args:
        text: JSON.
        like: weights with the same cues, as this release finds them; None takes those of the file.

    Raises:
        WeightsError: if a cue is missing or unknown, or a weight is no number, or below 0: then one cue more would
            lower the score.
    """
    try:
        found = json.loads(text)
        weights = {language: _of(found[language]) for language in LANGUAGES}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"it is no file of multi-hop weights ({type(error).__name__}: {error})") from None
    for language, one in weights.items():
        if like is not None and set(one.cues) != set(like[language].cues):
            names = ", ".join(sorted(set(one.cues) ^ set(like[language].cues)))
            raise WeightsError(f"{language}: these cues are missing, or unknown to this release: {names}")
        numbers = (one.length, *(weight for weight, _ in one.cues.values()))
        if not math.isfinite(one.bias) or any(not (math.isfinite(number) and number >= 0) for number in numbers):
            raise WeightsError(f"{language}: every weight must be a number, and none but the bias below 0")
    return weights


def to_text(weights: WeightsSet, note: str = "") -> str:
    """Write a file that `parse` reads."""
    stored: dict[str, Any] = {"note": note} if note else {}
    for language, one in weights.items():
        cues = {name: {"weight": weight, "cap": cap} for name, (weight, cap) in one.cues.items()}
        stored[language] = {**asdict(one), "cues": cues}
    return json.dumps(stored, indent=2, ensure_ascii=False) + "\n"


def _of(found: Mapping[str, Any]) -> Weights:
    return Weights(
        bias=float(found["bias"]),
        length=float(found["length"]),
        cues={name: (float(cue["weight"]), int(cue["cap"])) for name, cue in found["cues"].items()},
    )


_IN_USE: Final[dict[str, WeightsSet | None]] = {}
