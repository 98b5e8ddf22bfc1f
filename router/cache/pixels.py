"""Pictures by what they show: two files of the same pixels, upright and in RGB, are the same picture.

In: encoded pictures. Out: a hash of the pixels that the engines see. They are decoded in two threads of this module's
own, once per file, and only up to a size: what is larger, or comes while too many wait, is a picture of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from engines.base import EngineError, ImagePart
from engines.images import decode_image, picture_size

# A picture of so many pixels takes 50 MB while it is decoded; engines see larger ones reduced in ways that depend on
# the file, so equal pixels there would not be equal inputs.
MAX_PIXELS: Final = 16_000_000
_NUM_THREADS: Final = 2
_MAX_WAITING: Final = 64
_MAX_KNOWN: Final = 16_384
_BAND_ROWS: Final = 128


class PixelHashes:
    """Hashes pictures, and remembers the hashes by the files' own.

    Attributes:
        num_decoded: pictures so far.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="pixel-hashes")
        self._known: OrderedDict[str, str] = OrderedDict()
        self._running: dict[str, asyncio.Future[str]] = {}
        self.num_decoded = 0

    def known(self, images: Sequence[ImagePart]) -> tuple[str, ...] | None:
        """Return the pictures' hashes if no file has to be decoded for that."""
        found = tuple(self._known.get(image.sha256, "") for image in images)
        if not all(found):
            return None
        for image in images:  # what is asked about again and again is not the oldest
            self._known.move_to_end(image.sha256)
        return found

    async def of(self, images: Sequence[ImagePart]) -> tuple[str, ...] | None:
        """Return the pictures' hashes, in order; None if one does not decode, or too many wait to be decoded."""
        if (found := self.known(images)) is not None:
            return found
        if len(self._running) >= _MAX_WAITING:
            return None
        hashes = [await self._of(image) for image in images]
        return tuple(hashes) if all(hashes) else None

    def close(self) -> None:
        """Let the threads end; nothing more is decoded."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _of(self, image: ImagePart) -> str:
        if (known := self.known((image,))) is not None:
            return known[0]
        running = self._running.get(image.sha256)
        if running is None:
            self.num_decoded += 1
            running = asyncio.get_running_loop().run_in_executor(self._pool, hash_pixels, image)
            self._running[image.sha256] = running
            running.add_done_callback(lambda done: self._on_done(image.sha256, done))
        # Other requests wait for the same file, so the first client's hang-up must not cancel it.
        return await asyncio.shield(running)

    def _on_done(self, sha256: str, done: asyncio.Future[str]) -> None:
        del self._running[sha256]
        if done.cancelled() or not done.result():
            return
        self._known[sha256] = done.result()
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def hash_pixels(image: ImagePart) -> str:
    """Hash what a picture shows; empty if it does not decode, and the file's own hash if it is too large for this."""
    try:
        width, height = picture_size(image)
        if width * height > MAX_PIXELS:
            return image.sha256
        pixels = decode_image(image)
    except EngineError:
        return ""
    digest = hashlib.sha256(f"{pixels.width}x{pixels.height}".encode())
    for top in range(0, pixels.height, _BAND_ROWS):  # not a second copy of it all
        digest.update(pixels.crop((0, top, pixels.width, min(top + _BAND_ROWS, pixels.height))).tobytes())
    return digest.hexdigest()
