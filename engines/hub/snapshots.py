"""What of a model is on this disk: which of its files are missing, which are verified, what nobody finishes any more.

In: a `ModelName` and its `Place`. Out: a `Snapshot`, or None. Reads names, sizes and indexes; contents only when told
to. Both hubs' clients find what is kept here, and what they have downloaded is found here.

Layouts: Hugging Face ``models--ORG--NAME/{blobs,refs,snapshots/COMMIT}`` with links into ``blobs``, each named by its
hash; ModelScope ``models/ORG--NAME/snapshots/REVISION``, or one folder ``[hub/]models/ORG/NAME`` of older clients.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engines.hub.names import ModelName, Place, model_dir

PART: Final = ".glowl.incomplete"
_RECORDS = ".glowl"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHUNK_BYTES = 4 * 1024 * 1024
_MAX_POINTER_BYTES = 1024  # as Git LFS itself bounds them
# In the order in which loaders look for them.
_WEIGHTS = (
    ("model.safetensors", False),
    ("model.safetensors.index.json", True),
    ("pytorch_model.bin", False),
    ("pytorch_model.bin.index.json", True),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of a model on this disk.

    Attributes:
        name: the model, with the revision that it is.
        folder: with its files, or links to them.
        missing: files that are needed and not there, or not finished.
        is_verified: whether the contents were compared with the hashes that the hub names.
    """

    name: ModelName
    folder: Path
    missing: tuple[str, ...]
    is_verified: bool

    @property
    def num_bytes(self) -> int:
        """Of its finished files."""
        return sum(file.stat().st_size for file in self.folder.glob("*") if file.is_file())


def find_snapshot(name: ModelName, place: Place) -> Snapshot | None:
    """Find what is here of a model.

    Of several revisions, if none is named, the hub's default branch as last seen; one that is whole before others.
    """
    first: Snapshot | None = None
    for folder, revision in _candidates(name, place):
        if folder.is_dir():
            found = name.at(revision)
            missing = missing_files(folder)
            is_verified = not missing and _is_recorded(found, folder, place)
            if name.hub == "modelscope" and not missing and not is_verified:
                missing = cut_files(folder)  # nothing here names their hashes
            snapshot = Snapshot(found, folder, missing, is_verified)
            if not missing:
                return snapshot
            first = first or snapshot
    return first


def _candidates(name: ModelName, place: Place) -> Iterator[tuple[Path, str]]:
    home = model_dir(name, place)
    snapshots = home / "snapshots"
    revision = name.wanted_revision
    if name.hub == "modelscope":
        yield snapshots / revision, revision
        org, _, repo = name.repo.partition("/")
        for root in ("models", "hub/models"):
            yield place.cache / root / org / repo.replace(".", "___"), revision
        return
    if _COMMIT.fullmatch(revision):
        yield snapshots / revision, revision
        return
    with suppress(OSError, ValueError):
        commit = (home / "refs" / revision).read_text(encoding="utf-8").strip()
        if _COMMIT.fullmatch(commit):
            yield snapshots / commit, commit
    if not name.revision:
        with suppress(OSError):
            newest = sorted(snapshots.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
            yield from ((folder, folder.name) for folder in newest)


def missing_files(folder: Path) -> tuple[str, ...]:
    """Which files a checkpoint folder lacks; a link to nothing is no file, and neither is an empty one."""

    def has(file: str) -> bool:
        with suppress(OSError):
            return (folder / file).is_file() and (folder / file).stat().st_size > 0
        return False

    missing = [] if has("config.json") else ["config.json"]
    if not any(has(file) for file in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    for file, is_index in _WEIGHTS:
        if has(file):
            shards = index_of(folder / file) if is_index else ()
            return (*missing, *(shard for shard in shards if not has(shard)))
    return (*missing, "model.safetensors")


def cut_files(folder: Path) -> tuple[str, ...]:
    """Which safetensors of a folder have other sizes than their headers promise: copies that broke off."""
    return tuple(sorted(file.name for file in folder.glob("*.safetensors") if not _has_promised_size(file)))


def pointer_files(folder: Path) -> tuple[str, ...]:
    """Which files that loaders read only say where Git LFS has their contents: a clone made without it."""
    kinds = ["json", "model", "safetensors"] if any(folder.glob("*.safetensors")) else ["json", "model", "bin"]
    return tuple(sorted(file.name for kind in kinds for file in folder.glob(f"*.{kind}") if _is_pointer(file)))


def _is_pointer(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_POINTER_BYTES:
            return False
        return path.read_bytes().startswith(b"version https://git-lfs.github.com/spec/")
    except OSError:
        return False


def _has_promised_size(path: Path) -> bool:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            num_header = int.from_bytes(file.read(8), "little")
            if not 2 <= num_header <= size - 8:
                return False
            header = json.loads(file.read(num_header))
        ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        return bool(8 + num_header + max(ends, default=0) == size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False


def index_of(path: Path) -> tuple[str, ...]:
    """The shards that an index names; none if it is no index, which the loader will say."""
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(sorted(name for name in names if isinstance(name, str) and Path(name).name == name))


# --- verified once ---------------------------------------------------------------------------------------------------


def record(snapshot: Snapshot, place: Place) -> None:
    """Remember that a snapshot's contents were verified, and what it was asked for as."""
    path = _record_path(snapshot.name, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {file.name: file.stat().st_size for file in sorted(snapshot.folder.iterdir()) if file.is_file()}
    path.write_text(json.dumps({"model": str(snapshot.name), "files": sizes}, indent=1), encoding="utf-8")


def _record_path(name: ModelName, place: Place) -> Path:
    return model_dir(name, place) / _RECORDS / f"{name.wanted_revision.replace('/', '--')}.json"


def _is_recorded(name: ModelName, folder: Path, place: Place) -> bool:
    try:
        sizes: Mapping[str, int] = json.loads(_record_path(name, place).read_text(encoding="utf-8"))["files"]
        return all((folder / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def digest_of(path: Path, algorithm: str = "sha256", moved: Callable[[int], None] = lambda _: None) -> str:
    """Hash a file.

    Args:
        path: which.
        algorithm: ``sha256``, or ``git`` for what git calls a blob's id.
        moved: told the number of bytes of each piece.
    """
    digest = hashlib.sha256() if algorithm == "sha256" else hashlib.sha1(usedforsecurity=False)
    if algorithm == "git":
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            moved(len(piece))
    return digest.hexdigest()


def damaged_blobs(snapshot: Snapshot, moved: Callable[[int], None] = lambda _: None) -> list[Path]:
    """Which files of a Hugging Face snapshot do not have the hash that their blob is named by; reads all of them."""
    damaged = []
    for link in sorted(snapshot.folder.iterdir()):
        blob = link.parent / link.readlink() if link.is_symlink() else link
        if not link.is_symlink() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue  # a copy, on a disk without links: nothing names its hash
        if digest_of(link, "sha256" if len(blob.name) == 64 else "git", moved) != blob.name:
            damaged.append(link)
    return damaged


# --- what nobody finishes --------------------------------------------------------------------------------------------


@contextmanager
def sole(path: Path) -> Iterator[bool]:
    """Hold a lock file, if nobody else does; yields whether it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def lock_path(name: ModelName, place: Place) -> Path:
    """The lock that one process at a time holds while it downloads a model."""
    return model_dir(name, place) / _RECORDS / "lock"


def remove_orphans(name: ModelName, place: Place, wanted: frozenset[str]) -> int:
    """Remove unfinished files that nobody goes on with.

    Our own parts of files that are wanted stay, to be resumed. The hub's client never resumes what an earlier process
    left, so all of its parts go, except those of files that a process downloads just now.

    Args:
        name: of the model.
        place: where it is.
        wanted: names of the parts to keep.

    Returns:
        How many bytes that were.
    """
    home = model_dir(name, place)
    freed = 0
    for part in home.glob("**/*.incomplete"):
        if part.name in wanted or not part.is_file():
            continue
        with sole_or_absent(place.cache / ".locks" / home.name / f"{part.name.split('.')[0]}.lock") as is_free:
            if is_free:
                with suppress(OSError):
                    size = part.stat().st_size
                    part.unlink()
                    freed += size
    return freed


@contextmanager
def sole_or_absent(path: Path) -> Iterator[bool]:
    """As `sole`, but makes no file: where there is no lock, nobody holds it."""
    if not path.exists():
        yield True
        return
    with sole(path) as is_free:
        yield is_free
