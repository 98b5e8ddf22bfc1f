"""What glibc does with freed memory: keep it for the next request, and give it back once nothing needs it.

In: nothing. Out: settings of the process' allocator, and a task beside the api. On another C library nothing happens.

A request with three pictures of 1 MB takes and frees 20 MB. Left alone, glibc gives them back to the system after each
request and gets them again, page by page and zeroed: more than half of the request's CPU.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from pathlib import Path
from typing import Any, Final

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
# Free memory at the end of the heap above this goes back at once, as after a body of the largest size.
_KEPT_BYTES: Final = 128 * 2**20
# The rest goes back in a quiet moment, once it is worth the walk over the heap.
_LOOK_S: Final = 10.0
_WORTH_BYTES: Final = 16 * 2**20

_STATM: Final = Path("/proc/self/statm")


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process up to a bound; False where this C library cannot be told so.

    Large blocks come from the heap, too: orjson asks for twelve times a body, touches a tenth of it and gives it back.
    """
    glibc = _glibc()
    if glibc is None:
        return False
    return bool(glibc.mallopt(_M_MMAP_MAX, 0)) and bool(glibc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


async def give_back_forever(look_s: float = _LOOK_S) -> None:
    """Give free memory back when the process has grown; ends at once on another C library.

    Args:
        look_s: between two looks.
    """
    glibc = _glibc()
    if glibc is None or not _STATM.exists():
        return
    least = resident_bytes()
    while True:
        await asyncio.sleep(look_s)
        now = resident_bytes()
        least = min(least, now)
        if now - least > _WORTH_BYTES:
            # In a thread: it takes milliseconds, and other threads go on.
            await asyncio.to_thread(glibc.malloc_trim, 0)
            least = resident_bytes()


def resident_bytes() -> int:
    """Return how much memory the process holds; Linux only."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


def _glibc() -> Any:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - missing in every other C library
    except (OSError, AttributeError, TypeError):  # TypeError: Windows takes no None
        return None
    return library
