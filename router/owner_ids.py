"""What an owner's id looks like.

In: a text. Out: whether it may be one. Settings name owners, and settings know nothing of callers.
"""

from __future__ import annotations

import re
from typing import Final

# Whose everything is while no keys are configured.
LOCAL_OWNER: Final = "local"
# One with a record, or of a token; and that of a key in `GLOWL_API_KEYS`.
_OWNER_ID: Final = re.compile(r"own_[0-9a-f]{24}|[0-9a-f]{16}")


def is_owner_id(text: str) -> bool:
    """Whether a text has the form of an owner's id."""
    return text == LOCAL_OWNER or _OWNER_ID.fullmatch(text) is not None
