"""The page's files: read and packed when the first browser asks, never before.

In: a path inside ``router/ui``. Out: the bytes, gzip'd, with their type and ETag; and one version of them all, which is
part of every address, so that browsers may keep files for ever and still see a new release at once.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
_PACKED_ALREADY: Final = frozenset({".png"})
_VERSION_PLACE: Final = b"%VERSION%"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file.

    Attributes:
        data: its bytes, gzip'd if ``is_packed``.
        media_type: as browsers are told it.
        etag: changes with the bytes.
        is_packed: the bytes are gzip'd.
    """

    data: bytes
    media_type: str
    etag: str
    is_packed: bool

    def plain(self) -> bytes:
        """Return the bytes for a client that does not take gzip."""
        return gzip.decompress(self.data) if self.is_packed else self.data


class PageFiles:
    """All files of the page, by path.

    Args:
        roots: folders by the path that their files have; None for the page and the sample pictures of the package.
    """

    def __init__(self, roots: dict[str, Traversable] | None = None) -> None:
        self._roots = roots or {
            "": resources.files("router").joinpath("ui"),
            "samples/": resources.files("engines").joinpath("pocket", "samples"),
        }
        self._assets: dict[str, Asset] = {}

    @cached_property
    def version(self) -> str:
        """One word for all files together."""
        digest = hashlib.sha256()
        for path, file in sorted(self._files.items()):
            digest.update(path.encode() + b"\0" + file.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def find(self, path: str) -> Asset | None:
        """Return a file; None if there is no such one."""
        if path not in self._assets:
            if path not in self._files:
                return None
            self._assets[path] = self._read(path)
        return self._assets[path]

    @cached_property
    def _files(self) -> dict[str, Traversable]:
        return {path: file for prefix, root in self._roots.items() for path, file in _walk(root, prefix)}

    def _read(self, path: str) -> Asset:
        suffix = PurePosixPath(path).suffix
        data = self._files[path].read_bytes()
        if suffix == ".html":
            data = data.replace(_VERSION_PLACE, self.version.encode())
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        is_packed = suffix not in _PACKED_ALREADY
        return Asset(gzip.compress(data, 9, mtime=0) if is_packed else data, _TYPES[suffix], etag, is_packed)


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif PurePosixPath(entry.name).suffix in _TYPES:
            found.append((prefix + entry.name, entry))
    return found
