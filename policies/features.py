"""Second step: measure a request. In: what the router knows of it. Out: the features that the rules read.

Nothing here looks at a picture, an engine or a clock: the same request always measures the same.
"""

from dataclasses import dataclass
from typing import Literal

from policies.complexity import examine
from policies.language import Language, LanguageSource, identify
from policies.pictures import find_references_back, find_several_pictures
from policies.request import find_answer_language, find_request

RequestedRoute = Literal["auto", "fast", "deep"]


@dataclass(frozen=True, slots=True)
class Question:
    """What the router knows of a request.

    Attributes:
        text: the user's new question: the text of the last user turn.
        history: earlier user texts, oldest first. They break a tie about the language, and make a "thanks" an answer to
            something.
        image_keys: content hashes of the pictures in the new turn; the same picture twice is one.
        history_image_keys: content hashes of the pictures in earlier turns.
        system_text: the system prompt. It is the developer's, not the user's: read for the language to answer in only.
        uses_tools: the request offers functions, or the conversation holds calls of some.
    """

    text: str
    history: tuple[str, ...] = ()
    image_keys: tuple[str, ...] = ()
    history_image_keys: tuple[str, ...] = ()
    system_text: str = ""
    uses_tools: bool = False


@dataclass(frozen=True, slots=True)
class Hints:
    """What the caller asked for.

    Attributes:
        route: `hybrid.route`.
        engine: the engine that `model` names, "glm" or "owl2"; None where the policy is to choose.
        service_tier: the OpenAI field; "priority" makes the request interactive.
        deadline_ms: `hybrid.deadline_ms`, milliseconds from arrival.
    """

    route: RequestedRoute = "auto"
    engine: str | None = None
    service_tier: str | None = None
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """What was measured.

    Attributes:
        language: of the new question, or of the conversation where the question has none of its own.
        language_source: what decided the language; see `policies.language.Detection`.
        num_images: distinct pictures in the whole conversation.
        num_new_images: distinct pictures in the new turn.
        mentions_several_images: the wording speaks of several pictures, however many came; where the conversation holds
            several, also one that refers back or compares.
        multi_hop: 0 to 1, how much the question looks like several in one; see `policies.complexity`.
        multi_hop_cues: the words that raised it.
        is_interactive: the caller said that somebody waits. Deadlines are judged in `decide`.
        interactive_reason: the request field that said so.
        num_chars: length of the new question, in characters.
        requested_route: `hybrid.route`.
        requested_engine: the engine that `model` names.
        deadline_ms: `hybrid.deadline_ms`.
        several_images_cues: the words behind `mentions_several_images`.
        is_courtesy: the turn follows another, brings no picture, and only thanks, greets or agrees.
        answer_language: in which the turn, or else the system prompt, asks to be answered; None if neither does.
        uses_tools: see `Question`; only GLM reads and writes calls.
    """

    language: Language
    language_source: LanguageSource
    num_images: int
    num_new_images: int
    mentions_several_images: bool
    multi_hop: float
    multi_hop_cues: tuple[str, ...]
    is_interactive: bool
    interactive_reason: str | None
    num_chars: int
    requested_route: RequestedRoute
    requested_engine: str | None
    deadline_ms: int | None = None
    several_images_cues: tuple[str, ...] = ()
    is_courtesy: bool = False
    answer_language: Literal["en", "zh"] | None = None
    uses_tools: bool = False


def measure(question: Question, hints: Hints = Hints()) -> Features:
    """Measure a request. Total: any text is accepted.

    Args:
        question: the user's words and the hashes of the pictures.
        hints: the request fields that steer the route.
    """
    detection = identify(question.text, question.history)
    complexity = examine(question.text, detection.language)
    num_images = len({*question.image_keys, *question.history_image_keys})
    several = find_references_back(question.text) if num_images > 1 else find_several_pictures(question.text)
    request = find_request(question.text)
    interactive_reason = _interactive_reason(hints)
    return Features(
        language=detection.language,
        language_source=detection.source,
        num_images=num_images,
        num_new_images=len(set(question.image_keys)),
        mentions_several_images=bool(several),
        multi_hop=complexity.score,
        multi_hop_cues=complexity.cues,
        is_interactive=interactive_reason is not None,
        interactive_reason=interactive_reason,
        num_chars=len(question.text),
        requested_route=hints.route,
        requested_engine=hints.engine,
        deadline_ms=hints.deadline_ms,
        several_images_cues=several,
        is_courtesy=request.is_courtesy and bool(question.history) and not question.image_keys,
        answer_language=request.answer_language or find_answer_language(question.system_text),
        uses_tools=question.uses_tools,
    )


def _interactive_reason(hints: Hints) -> str | None:
    if hints.route == "fast":
        return "hybrid.route is fast"
    if hints.service_tier == "priority":
        return "service_tier is priority"
    return None
