"""The weight files of a checkpoint folder: which there are, and what is in them, without reading the weights.

In: a folder with safetensors or ``pytorch_model-K-of-N.bin`` shards. Out: names, shapes and dtypes, and one file's
tensors at a time, mapped rather than read; or a `CheckpointError` that names the file. Pickles are never run.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

FLOAT_DTYPES = frozenset({"float64", "float32", "float16", "bfloat16"})

# In the order in which transformers looks for them: a folder that was converted in place may hold two layouts.
_SINGLE_OR_INDEX = (
    ("model.safetensors", False),
    ("model.safetensors.index.json", True),
    ("pytorch_model.bin", False),
    ("pytorch_model.bin.index.json", True),
)
_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAX_HEADER_BYTES = 100_000_000  # the bound of the safetensors library
_MAX_NAMED = 8


class CheckpointError(ValueError):
    """A checkpoint folder is incomplete or does not fit the model; the message names the file or tensor."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says about one of its tensors.

    Attributes:
        name: full name, such as ``model.layers.0.mlp.up_proj.weight``.
        shape: as stored.
        dtype: torch's name, such as ``float16``; of what is no float, the file's own word.
        file: where it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files that make up a checkpoint.

    Attributes:
        paths: all of them, shard 2 before shard 10.
        index: tensor name to file name, or None if there is a single file without an index.
    """

    paths: tuple[Path, ...]
    index: Mapping[str, str] | None


def name_some(names: Any) -> str:
    """Join names for a message: sorted, and only the first few of many."""
    shown = ", ".join(sorted(names)[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"


def find_weight_files(folder: Path) -> WeightFiles:
    """Find the weight files, and make sure that all that an index names are there.

    Raises:
        CheckpointError: if there are none, the index is no index, or files are missing.
    """
    for name, is_index in _SINGLE_OR_INDEX:
        path = folder / name
        if path.is_file():
            return _follow_index(path) if is_index else WeightFiles((path,), None)
    shards = [path.name for pattern in ("model-*.safetensors", "pytorch_model-*.bin") for path in folder.glob(pattern)]
    if shards:
        raise CheckpointError(
            f"checkpoint {folder} has shards ({name_some(shards)}) but neither model.safetensors.index.json nor "
            "pytorch_model.bin.index.json, which says what belongs together"
        )
    wanted = ", ".join(name for name, _ in _SINGLE_OR_INDEX)
    raise CheckpointError(f"checkpoint {folder} has no weights: none of {wanted}")


def _follow_index(path: Path) -> WeightFiles:
    content = read_json(path)
    index = content.get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise CheckpointError(f"{path} has no weight_map of tensor names to files")
    if not isinstance(content.get("metadata"), dict):  # transformers reads it without asking
        raise CheckpointError(f"{path} has no metadata, an object that may be empty")
    names = set(index.values())
    if outside := sorted(name for name in names if Path(name).name != name or name in ("", "..")):
        raise CheckpointError(f"{path} names files outside its folder: {name_some(outside)}")
    if missing := {name for name in names if not (path.parent / name).is_file()}:
        examples = {name for name, file in index.items() if file in missing}
        raise CheckpointError(
            f"{path} names files that are not there: {name_some(missing)}; with {name_some(examples)}"
        )
    return WeightFiles(tuple(sorted((path.parent / name for name in names), key=_natural_key)), index)


def _natural_key(path: Path) -> tuple[tuple[int, str], ...]:
    """Sort shard 2 before shard 10: the published shards are not zero-padded."""
    return tuple((int(part), "") if part.isdigit() else (0, part) for part in path.name.replace("-", ".").split("."))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: if the file is missing or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return value


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """List a file's tensors; costs a few milliseconds, whatever its size.

    Raises:
        CheckpointError: if the file is truncated, damaged, or holds anything but tensors.
    """
    if path.suffix == ".safetensors":
        return {
            name: TensorHeader(name, tuple(entry["shape"]), _torch_name(entry["dtype"]), path)
            for name, entry in _read_safetensors_header(path).items()
        }
    return {
        name: TensorHeader(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), path)
        for name, tensor in _load_pickle(path).items()
    }


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a file for reading tensor by tensor.

    Yields:
        A function from a name to the tensor, on the CPU and in the file's dtype. The tensor is a view of the file: it
        takes memory only as long as it is used. (A ``.bin`` from before torch 1.6 is read whole.)

    Raises:
        CheckpointError: as `read_headers`.
    """
    if path.suffix != ".safetensors":
        tensors = _load_pickle(path)
        yield tensors.__getitem__
        return
    _read_safetensors_header(path)  # the library's own words for a truncated file name no file
    try:
        with safe_open(path, framework="pt") as file:
            yield file.get_tensor
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _torch_name(dtype: str) -> str:
    return _SAFETENSORS_DTYPES.get(dtype, dtype)


def _read_safetensors_header(path: Path) -> dict[str, Any]:
    """Parse a header by hand: unlike the library, with the file's name and both sizes in the error."""
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if num_bytes < 8 or not 2 <= header_bytes <= min(num_bytes - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(f"{path} is truncated or no safetensors file: {num_bytes} bytes")
            header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        header = {
            name: {"dtype": str(entry["dtype"]), "shape": [int(size) for size in entry["shape"]]}
            for name, entry in header.items()
        }
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} has no readable safetensors header: {error!r}") from error
    if (promised := 8 + header_bytes + end) != num_bytes:
        word = "truncated" if promised > num_bytes else "damaged"
        raise CheckpointError(f"{path} is {word}: it has {num_bytes} bytes, its header promises {promised}")
    return header


def _load_pickle(path: Path) -> dict[str, Tensor]:
    """Open a ``.bin`` with torch's restricted unpickler, its storages mapped and not read."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if is_zip and not zipfile.is_zipfile(path):  # the list of contents is at the very end
        raise CheckpointError(f"{path} is truncated: {path.stat().st_size} bytes, and its end is missing")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors, and reading it in full could run code"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error or type(error).__name__}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, not tensors by name")
    if others := [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path} holds things that are no tensors: {name_some(others)}")
    return loaded
