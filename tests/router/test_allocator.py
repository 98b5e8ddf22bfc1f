"""Freed memory stays for the next request, and goes back once nothing needs it."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys

import pytest

from router import allocator

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

_TAKE_AND_FREE = """
import resource, sys
from router.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def take():
    held = [b"x" * 5_000_000 for _ in range(3)]
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

_GROW_AND_LOOK = """
import asyncio
from router.allocator import _WORTH_BYTES, give_back_forever, keep_freed_memory, resident_bytes
keep_freed_memory()
async def main():
    task = asyncio.create_task(give_back_forever(look_s=0.01))
    await asyncio.sleep(0)
    # Every second block stays, so that nothing is free at the end of the heap.
    held = [b"x" * 1_000_000 for _ in range(200)]
    full = resident_bytes()
    del held[::2]
    while full - resident_bytes() < 90_000_000:
        await asyncio.sleep(0.01)
    task.cancel()
    print(len(held))
asyncio.run(asyncio.wait_for(main(), 60))
"""


def run(code: str, *arguments: str) -> int:
    """Run code in a process of its own: the allocator's settings are for the whole process."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


@on_glibc
def test_freed_memory_is_not_got_again_page_by_page() -> None:
    given_back, kept = run(_TAKE_AND_FREE, "leave"), run(_TAKE_AND_FREE, "keep")
    assert given_back > 10_000
    assert kept < 500


@on_glibc
def test_memory_that_nothing_needs_goes_back() -> None:
    assert run(_GROW_AND_LOOK) == 100


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        pass

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: Musl())
    assert not allocator.keep_freed_memory()
    asyncio.run(asyncio.wait_for(allocator.give_back_forever(), 30))


def test_a_system_whose_c_library_cannot_be_asked_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_name: None) -> None:
        raise TypeError("a name is expected")

    monkeypatch.setattr(allocator.ctypes, "CDLL", load)
    assert not allocator.keep_freed_memory()
