"""How an engine's process ends when its engine cannot be loaded: one line, and whether waiting helps.

In: what loading raised. Out: the line, and an exit status that supervisors understand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from engines.base import EngineError

# As in sysexits.h. Anything else is of unknown cause: worth a few more tries.
TRY_AGAIN: Final = os.EX_TEMPFAIL  # 75: what is away may come back
HOPELESS: Final = os.EX_CONFIG  # 78: the same again, until somebody changes something
UNKNOWN: Final = 1

_MAX_CHARS = 600
# Of the hub's HTTP client and of safetensors, which this process may not have imported.
_CONNECTION_ERROR = "TransportError"
_BROKEN_FILES = frozenset({"SafetensorError"})


def exit_status(error: BaseException) -> int:
    """Say whether loading again, later, would end otherwise.

    Args:
        error: from loading. One that knows says so in its attribute ``waiting_helps``.
    """
    helps = getattr(error, "waiting_helps", None)
    if isinstance(helps, bool):
        return TRY_AGAIN if helps else HOPELESS
    if any(_is_of_the_line(cause) for cause in _with_causes(error)):
        return TRY_AGAIN
    # transformers raises an OSError without a number for a checkpoint that is not whole.
    is_not_whole = isinstance(error, OSError) and error.errno is None
    if is_not_whole or isinstance(error, ValueError | ImportError | FileNotFoundError):
        return HOPELESS
    if type(error).__name__ in _BROKEN_FILES:
        return HOPELESS
    return UNKNOWN


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_of_the_line(error: BaseException) -> bool:
    """Whether a connection failed, or a server did: peft and transformers ask the hub for adapters by themselves."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    names = {kind.__name__ for kind in type(error).__mro__}
    is_of_the_line = isinstance(error, ConnectionError | TimeoutError) or _CONNECTION_ERROR in names
    return is_of_the_line or status == 429 or status >= 500


def one_line(error: BaseException) -> str:
    """What an error says, in one line; with its type, unless it is one of ours and says enough by itself."""
    words = " ".join(str(error).split())
    speaks_for_itself = words and (isinstance(error, EngineError) or hasattr(error, "waiting_helps"))
    text = words if speaks_for_itself else f"{type(error).__name__}: {words}" if words else type(error).__name__
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"
