"""How an engine's process ends when its engine cannot be loaded: one line, and whether waiting helps.

In: what loading raised. Out: the line, and an exit status that supervisors understand.
"""

from __future__ import annotations

import os
from typing import Final

from engines.base import EngineError

# As in sysexits.h. Anything else is of unknown cause: worth a few more tries.
TRY_AGAIN: Final = os.EX_TEMPFAIL  # 75: what is away may come back
HOPELESS: Final = os.EX_CONFIG  # 78: the same again, until somebody changes something
UNKNOWN: Final = 1

_MAX_CHARS = 600
# Of safetensors, which this process may not have imported.
_BROKEN_FILES = frozenset({"SafetensorError"})


def exit_status(error: BaseException) -> int:
    """Say whether loading again, later, would end otherwise.

    Args:
        error: from loading. One that knows says so in its attribute ``waiting_helps``.
    """
    helps = getattr(error, "waiting_helps", None)
    if isinstance(helps, bool):
        return TRY_AGAIN if helps else HOPELESS
    if isinstance(error, ConnectionError | TimeoutError):
        return TRY_AGAIN
    # transformers raises an OSError without a number for a checkpoint that is not whole.
    is_not_whole = isinstance(error, OSError) and error.errno is None
    if is_not_whole or isinstance(error, ValueError | ImportError | FileNotFoundError):
        return HOPELESS
    if type(error).__name__ in _BROKEN_FILES:
        return HOPELESS
    return UNKNOWN


def one_line(error: BaseException) -> str:
    """What an error says, in one line; with its type, unless it is one of ours and says enough by itself."""
    words = " ".join(str(error).split())
    speaks_for_itself = words and (isinstance(error, EngineError) or hasattr(error, "waiting_helps"))
    text = words if speaks_for_itself else f"{type(error).__name__}: {words}" if words else type(error).__name__
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"
