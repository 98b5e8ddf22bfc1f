"""What should have been said, as far as somebody said so.

In: an answer, and what was said of it. Out: the right answer, as a model is to write it; or None. Data sets learn from
it, and proofs measure with it.
"""

from __future__ import annotations

import json

from router.loop.records import Feedback
from router.loop.stats.metrics import read_json


def right_of(final: str, feedback: Feedback | None) -> str | None:
    """Return the right answer: a correction; the answer with fields corrected; an answer that was liked.

    A thumb down alone says that the answer is wrong, and not what is right. Fields of an answer that is no JSON object
    are parts of an answer that is not known.
    """
    if feedback is None:
        return None
    if feedback.correction is not None:
        said = feedback.correction
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    if feedback.fields:
        found = read_json(final)
        return json.dumps({**found, **feedback.fields}, ensure_ascii=False) if isinstance(found, dict) else None
    return final if feedback.rating == "up" else None
