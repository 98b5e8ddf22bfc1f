"""Turn a checkpoint folder of ``.bin`` shards into safetensors: ``python -m engines.owl2.convert SRC DST``.

In: a folder (or hub id) in either layout. Out: another folder with the same tensors as safetensors shards, the same
side files, and ``conversion.json``, which holds every checksum. One output shard is in memory at a time; what a killed
run has finished is not done again. ``glowl models convert`` runs this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engines.owl2.checks import read_config
from engines.owl2.files import CheckpointError, TensorHeader, open_tensors, read_json
from engines.owl2.loading import check_files, resolve_folder

DTYPES = ("keep", "float16", "bfloat16", "float32")
MANIFEST = "conversion.json"

_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"
# Not copied: other forms of the weights, and pickles, which only a full unpickling could read.
_NOT_SIDE_FILES = re.compile(r"(\.(bin|safetensors|pt|pth|ckpt|h5|msgpack|onnx|gguf)|\.index\.json|^\..*)$")
_CHUNK_BYTES = 8 << 20
_DISK_MARGIN_BYTES = 64 << 20
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}

Advance = Callable[[int], None]
"""Called with a number of bytes that were read or written."""


@dataclass(frozen=True, slots=True)
class Shard:
    """An output file that is to be.

    Attributes:
        name: of the file.
        tensors: what goes into it, in the order of the source.
        num_bytes: of the tensors, in the output's dtype.
    """

    name: str
    tensors: tuple[TensorHeader, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a conversion did.

    Attributes:
        num_tensors: in the output.
        num_bytes: of them.
        num_shards: output files.
        num_kept: shards that an earlier run had finished.
        is_exact: whether the tensors are equal to the source's, byte for byte; else they were cast to another dtype.
    """

    num_tensors: int
    num_bytes: int
    num_shards: int
    num_kept: int
    is_exact: bool


class Progress:
    """Tells nobody; the base of those that do."""

    def stage(self, text: str, num_bytes: int) -> None:
        """Begin something that goes through so many bytes."""

    def advance(self, num_bytes: int) -> None:
        """So many bytes are done."""


def plan_shards(headers: Iterable[TensorHeader], dtype: str, max_shard_bytes: int) -> list[Shard]:
    """Divide tensors into files, in order; a tensor larger than the bound gets a file of its own.

    Args:
        headers: in the order in which they are read.
        dtype: of the output, ``keep`` for the source's.
        max_shard_bytes: bound of a file's tensors.
    """
    groups: list[list[TensorHeader]] = []
    sizes: list[int] = []
    for header in headers:
        size = _num_bytes(header, dtype)
        if not groups or sizes[-1] + size > max_shard_bytes:
            groups.append([])
            sizes.append(0)
        groups[-1].append(header)
        sizes[-1] += size
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group), size)
        for number, (group, size) in enumerate(zip(groups, sizes, strict=True), start=1)
    ]


def convert(
    source: Path,
    target: Path,
    *,
    dtype: str = "keep",
    max_shard_bytes: int = 2 * 10**9,
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint, or go on with a conversion that was interrupted.

    Args:
        source: a complete checkpoint in either layout; not changed.
        target: absent, empty, or what an earlier run of the same conversion left behind.
        dtype: ``keep``, ``float16``, ``bfloat16`` or ``float32``.
        max_shard_bytes: bound of each output file.
        progress: is told how far it is.

    Raises:
        CheckpointError: if the source is incomplete or damaged, the target holds something else, the disk is too small,
            or what was written does not read back equal.
    """
    if dtype not in DTYPES or max_shard_bytes < 1:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, and a shard have at least one byte")
    progress = progress or Progress()
    headers = check_files(source, read_config(source))
    shards = plan_shards(headers.values(), dtype, max_shard_bytes)
    manifest = _open_manifest(source, target, headers, dtype, max_shard_bytes)
    total_bytes = sum(shard.num_bytes for shard in shards)
    done = _find_finished(target, shards, manifest, progress)
    _check_disk(target, sum(shard.num_bytes for shard in shards if shard.name not in done))
    progress.stage("converting", sum(shard.num_bytes for shard in shards if shard.name not in done))
    with _Source() as tensors:
        for shard in shards:
            if shard.name not in done:
                manifest["shards"][shard.name] = _write_shard(target, shard, tensors, dtype, progress.advance)
                _write_json(target / MANIFEST, manifest)
    progress.stage("verifying", total_bytes)
    _verify(target, shards, manifest, progress.advance)
    _write_side_files(source, target, shards, dtype)
    manifest["is_complete"] = True
    _write_json(target / MANIFEST, manifest)
    return Report(len(headers), total_bytes, len(shards), len(done), is_exact=dtype == "keep")


def _num_bytes(header: TensorHeader, dtype: str) -> int:
    element = getattr(torch, header.dtype if dtype == "keep" else dtype).itemsize
    return element * torch.Size(header.shape).numel()


def _open_manifest(
    source: Path, target: Path, headers: Mapping[str, TensorHeader], dtype: str, max_shard_bytes: int
) -> dict[str, Any]:
    """Read what an earlier run wrote down, or begin anew.

    Raises:
        CheckpointError: if the folder holds anything that is not this conversion.
    """
    files = sorted({header.file for header in headers.values()})
    conversion = {
        # A file that was replaced meanwhile must not be mixed with shards of the old one.
        "source": {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files},
        "dtype": dtype,
        "max_shard_bytes": max_shard_bytes,
    }
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is not a folder")
    if target.resolve() == source.resolve():
        raise CheckpointError("source and target are the same folder")
    path = target / MANIFEST
    if path.exists():
        manifest = read_json(path)
        if manifest.get("conversion") != conversion or not isinstance(manifest.get("shards"), dict):
            raise CheckpointError(
                f"{target} holds a conversion of other files, or with other options; remove it or choose another folder"
            )
        return manifest
    if target.is_dir() and any(target.iterdir()):
        raise CheckpointError(f"{target} is not empty and holds no {MANIFEST}; choose another folder")
    target.mkdir(parents=True, exist_ok=True)
    manifest = {"conversion": conversion, "shards": {}, "is_complete": False}
    _write_json(path, manifest)
    return manifest


def _find_finished(
    target: Path, shards: Sequence[Shard], manifest: Mapping[str, Any], progress: Progress
) -> frozenset[str]:
    """Which shards are there with the size and the checksum that were written down."""
    candidates = {}
    for shard in shards:
        entry, path = manifest["shards"].get(shard.name), target / shard.name
        if entry and path.is_file() and path.stat().st_size == entry["size_bytes"]:
            candidates[shard.name] = entry
    if not candidates:
        return frozenset()
    progress.stage("checking what is done", sum(entry["size_bytes"] for entry in candidates.values()))
    return frozenset(
        name
        for name, entry in candidates.items()
        if _sha256_of_file(target / name, progress.advance) == entry["sha256"]
    )


def _check_disk(target: Path, need_bytes: int) -> None:
    free = shutil.disk_usage(target).free
    if need_bytes and free < need_bytes + _DISK_MARGIN_BYTES:
        raise CheckpointError(
            f"not enough disk for {target}: {need_bytes / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free"
        )


class _Source:
    """The source's tensors, with one of its files open at a time."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._path: Path | None = None
        self._get: Callable[[str], Tensor] | None = None

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, header: TensorHeader) -> Tensor:
        """Read a tensor."""
        if self._get is None or self._path != header.file:
            self._stack.close()
            self._get = self._stack.enter_context(open_tensors(header.file))
            self._path = header.file
        return self._get(header.name)


def _write_shard(target: Path, shard: Shard, source: _Source, dtype: str, advance: Advance) -> dict[str, Any]:
    """Write a shard under another name, then give it its own; returns its entry in the manifest."""
    tensors, checksums = {}, {}
    for header in shard.tensors:
        tensor = source.get(header)
        # A copy: shards of old torch versions hold views of shared storages, and a mapped file may change.
        tensor = tensor.to(getattr(torch, header.dtype if dtype == "keep" else dtype), copy=True).contiguous()
        tensors[header.name] = tensor
        checksums[header.name] = _sha256_of_tensor(tensor)
        advance(tensor.nbytes)
    path = target / shard.name
    unfinished = path.with_name(f".{path.name}.unfinished")
    save_file(tensors, unfinished, metadata={"format": "pt"})
    shutil.copymode(target / MANIFEST, unfinished)  # the library makes files that only their owner may read
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    entry = {"size_bytes": unfinished.stat().st_size, "sha256": _sha256_of_file(unfinished), "tensors": checksums}
    os.replace(unfinished, path)
    return entry


def _verify(target: Path, shards: Sequence[Shard], manifest: Mapping[str, Any], advance: Advance) -> None:
    """Read everything back and compare it with what was read from the source, tensor by tensor.

    Raises:
        CheckpointError: naming the tensors that differ.
    """
    for shard in shards:
        expected = manifest["shards"][shard.name]["tensors"]
        with open_tensors(target / shard.name) as get:
            for header in shard.tensors:
                tensor = get(header.name)
                if _sha256_of_tensor(tensor) != expected[header.name]:
                    raise CheckpointError(
                        f"{target / shard.name}: {header.name} does not read back as it was written; the disk may be "
                        "failing. Remove the file and run the same command again"
                    )
                advance(tensor.nbytes)


def _write_side_files(source: Path, target: Path, shards: Sequence[Shard], dtype: str) -> None:
    """Write the index, then copy everything that is not weights; the config last, since it makes a folder a model."""
    weight_map = {header.name: shard.name for shard in shards for header in shard.tensors}
    total_size = sum(shard.num_bytes for shard in shards)
    _write_json(
        target / _INDEX, {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    )
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in (_CONFIG, MANIFEST) and not _NOT_SIDE_FILES.search(path.name):
            shutil.copyfile(path, target / path.name)
    config = read_json(source / _CONFIG)
    if dtype == "keep":
        shutil.copyfile(source / _CONFIG, target / _CONFIG)
    else:
        config.pop("dtype", None)
        _write_json(target / _CONFIG, config | {"torch_dtype": dtype})


def _sha256_of_tensor(tensor: Tensor) -> str:
    digest = hashlib.sha256()
    if tensor.numel():
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sha256_of_file(path: Path, advance: Advance | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write it so that a reader, or a run after a power cut, sees all of it or the old file."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def parse_size(text: str) -> int:
    """Turn ``2GB``, ``500MB`` or a number of bytes into bytes; units are powers of ten.

    Raises:
        ValueError: if it is none of these, or nothing at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMG]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is no size; write 2GB, 500MB or a number of bytes")
    return size


class _Lines(Progress):
    """A line per stage and per tenth of it, for logs and pipes."""

    def __init__(self) -> None:
        self._text, self._total, self._done, self._shown = "", 0, 0, 0

    def stage(self, text: str, num_bytes: int) -> None:
        self._text, self._total, self._done, self._shown = text, num_bytes, 0, 0
        if num_bytes:
            print(f"{text}: {num_bytes / 1e6:.1f} MB", file=sys.stderr, flush=True)

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        tenths = 10 * self._done // max(1, self._total)
        if tenths > self._shown:
            self._shown = tenths
            print(f"{self._text}: {10 * tenths} %", file=sys.stderr, flush=True)


class _Bar(Progress):
    """A bar per stage, on a terminal."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def stage(self, text: str, num_bytes: int) -> None:
        if num_bytes:
            self._task = self._bars.add_task(text, total=num_bytes)

    def advance(self, num_bytes: int) -> None:
        self._bars.advance(self._task, num_bytes)


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console) as bars:
        yield _Bar(bars)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a conversion.

    Returns:
        0 when the target is complete and verified; 1, with one line on stderr, if that is not possible; 130 after
        Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="glowl models convert", description="Turn .bin shards into safetensors.")
    parser.add_argument("source", help="checkpoint folder, or hub id")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--dtype", default="keep", choices=DTYPES, help="of the output (default: %(default)s)")
    parser.add_argument("--max-shard-size", default="2GB", help="bound of each file (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        max_shard_bytes = parse_size(arguments.max_shard_size)
        source = resolve_folder(arguments.source)
        with _shown_progress() as progress:
            report = convert(
                source, arguments.target, dtype=arguments.dtype, max_shard_bytes=max_shard_bytes, progress=progress
            )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one ended", file=sys.stderr)
        return 130
    kept = f", {report.num_kept} of them from an earlier run" if report.num_kept else ""
    proof = "every tensor equal to the source's" if report.is_exact else f"every tensor cast to {arguments.dtype}"
    print(
        f"{arguments.target}: {report.num_tensors} tensors, {report.num_bytes / 1e6:.1f} MB in {report.num_shards} "
        f"files{kept}; {proof}, by sha256 of what was read back from disk"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
