"""Logs whose truth is known: questions, what both models say, and which second looks were drawn."""

from __future__ import annotations

import random

from policies.features import Features
from router.loop.stats.records import Exchange, Route

RIGHT, WRONG = "right", "wrong"


def features(language: str = "zh", *, num_images: int = 1, multi_hop: float = 0.1) -> Features:
    """Return the features of a question that nothing else is known of."""
    return Features(
        language=language,  # type: ignore[arg-type]
        language_source="script",
        num_images=num_images,
        num_new_images=num_images,
        mentions_several_images=False,
        multi_hop=multi_hop,
        multi_hop_cues=(),
        is_interactive=False,
        interactive_reason=None,
        num_chars=12,
        requested_route="auto",
        requested_engine=None,
    )


def simulated_log(
    generator: random.Random,
    gain: float,
    *,
    num_documents: int = 700,
    probability: float = 0.25,
    differs: float = 0.2,
    judged: float = 1.0,
) -> list[Exchange]:
    """Make a log of fast answers in Chinese, of one to three questions per document.

    Args:
        generator: draws everything.
        gain: what a deeper look gains on average, as a share.
        num_documents: how many.
        probability: of a second look.
        differs: share of the questions that just one of both gets right.
        judged: share of the questions of which it is known what is right.
    """
    exchanges = []
    for document in range(num_documents):
        # Some documents are hard for one model, some for the other: their questions are not independent.
        tilt = generator.choice((-0.08, 0.0, 0.08))
        for question in range(generator.randint(1, 3)):
            draw = generator.random()
            won, lost = (differs + gain) / 2 + tilt, (differs - gain) / 2 - tilt
            fast, deep = (WRONG, RIGHT) if draw < won else (RIGHT, WRONG) if draw < won + lost else (RIGHT, RIGHT)
            is_drawn = generator.random() < probability
            exchanges.append(
                exchange(
                    f"{document}/{question}",
                    group=str(document),
                    fast=fast,
                    deep=deep if is_drawn else None,
                    probability=probability,
                    right=RIGHT if generator.random() < judged else None,
                )
            )
    return exchanges


def exchange(
    name: str,
    *,
    group: str = "",
    route: Route = "fast",
    fast: str | None = RIGHT,
    deep: str | None = None,
    right: str | None = RIGHT,
    probability: float = 0.0,
    language: str = "zh",
    num_images: int = 1,
    seconds: tuple[float, float] = (1.0, 5.0),
) -> Exchange:
    """Make one; drawn if there is a deeper answer."""
    return Exchange(
        name,
        group or name,
        route,
        features(language, num_images=num_images),
        f"question {name}",
        fast,
        deep,
        right,
        1.0 if route == "deep" else probability,
        route == "deep" or deep is not None,
        seconds[0],
        None if deep is None else seconds[1],
    )
