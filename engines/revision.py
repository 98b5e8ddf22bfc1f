"""Which weights an engine answers with: a short name that changes whenever its answers may.

In: a checkpoint, its adapters, and how they are computed with. Out: hex digits, the same on every machine that has the
same files. Reads samples of large files: a training step changes every tensor, so that any sample shows it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Smaller files are read whole: configurations, tokenizers, templates.
_WHOLE_BYTES: Final = 4 * 1024 * 1024
_NUM_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096
# Files that have no influence on an answer.
_IGNORED: Final = frozenset({".md", ".png"})


def revision_of(sources: Iterable[tuple[str, str]], how: str) -> str:
    """Name what an engine answers with.

    Args:
        sources: (name, folder or hub id) of the checkpoint and of each adapter. What is no folder, and not in the hub's
            cache, counts by its name.
        how: everything else that an answer depends on: dtype, quantization, version of the preprocessing.

    Returns:
        16 hex digits.
    """
    digest = hashlib.sha256(how.encode())
    for name, source in sources:
        folder = _folder_of(source)
        digest.update(f"\0{name}\0{source if folder is None else ''}".encode())
        if folder is None:
            continue
        for file in _files_of(folder):
            digest.update(f"\0{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
            for sample in _samples_of(file):
                digest.update(sample)
    return digest.hexdigest()[:16]


def adapter_revisions(base: str, adapters: Iterable[tuple[str, str]], how: str) -> tuple[str, ...]:
    """Name what an engine answers with under each of its adapters, whichever others are loaded beside it.

    Args:
        base: folder or hub id of the checkpoint.
        adapters: as (name, folder or hub id).
        how: as of `revision_of`.
    """
    return tuple(revision_of([("", base), ("adapter", source)], how) for _, source in adapters)


def _folder_of(source: str) -> Path | None:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, local_files_only=True))
    except (ImportError, OSError, ValueError):  # not installed; not downloaded; no id that the hub knows
        return None


def _files_of(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix not in _IGNORED)
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _samples_of(file: Path) -> Iterable[bytes]:
    size = file.stat().st_size
    with file.open("rb") as data:
        if size <= _WHOLE_BYTES:
            yield data.read()
            return
        for number in range(_NUM_SAMPLES):
            data.seek((size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1))
            yield data.read(_SAMPLE_BYTES)
