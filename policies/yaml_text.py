"""Reading YAML that people write. In: a file. Out: plain data and the line of all of it, or an error that names both.

Presets and tables of expected routes are read with this, so that their errors look alike.
"""

from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

Location = tuple[str | int, ...]


class YamlError(Exception):
    """A file cannot be used. The message names the file, the line and what would be accepted."""


def make_fault(message: str, *at: str | int) -> PydanticCustomError:
    """Make a validation error about something inside the model that finds it, so that its own line is named.

    Args:
        message: what is wrong and what would be accepted.
        at: the way to it from the model's own place.
    """
    return PydanticCustomError("rules", "{message}", {"message": message, "at": at})


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys that a mapping of this kind may have, as they are written."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def read_yaml(source: Traversable | Path, label: str) -> tuple[Any, dict[Location, int]]:
    """Read one YAML document.

    Args:
        source: the file.
        label: its name in errors.

    Returns:
        The data, and for every key and item the line it stands on, counted from 1.

    Raises:
        YamlError: the file cannot be read, or is no YAML that we accept.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise YamlError(f"{label}: cannot be read ({error}); a UTF-8 YAML file is expected") from error
    lines: dict[Location, int] = {}
    try:
        return _parse(text, lines, label), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise YamlError(f"{label}, line {line}: {why}; valid YAML is expected") from error
    except RecursionError as error:
        raise YamlError(f"{label}, line 1: nested too deeply; a few levels are expected") from error


def describe_fault(
    fault: Any, lines: dict[Location, int], label: str, accepted_at: Callable[[Location], tuple[str, ...]]
) -> str:
    """Turn one of pydantic's errors into a line that names the file, the line in it, the place and what is accepted.

    Args:
        fault: one of `ValidationError.errors()`.
        lines: from `read_yaml`.
        label: the file's name.
        accepted_at: the keys that the mapping at a place may have.
    """
    inside: Location = fault["ctx"]["at"] if fault["type"] == "rules" else ()
    # pydantic adds the branch of a union to the path; the file has no such key.
    location: Location = (*(part for part in fault["loc"] if part not in ("bool", "str")), *inside)
    known = location
    while known and known not in lines:
        known = known[:-1]
    where = ".".join(str(part) for part in location) or "the file"
    message = str(fault["msg"])
    if fault["type"] == "extra_forbidden":
        message = f"not a known key; accepted: {', '.join(accepted_at(location[:-1]))}"
    elif fault["type"] == "missing":
        message = "is missing"
    elif fault["type"] != "rules" and not isinstance(fault["input"], dict | list | tuple):
        message = f"{message}, not {fault['input']!r}"
    return f"{label}, line {lines.get(known, 1)}: {where}: {message}"


def _parse(text: str, lines: dict[Location, int], label: str) -> Any:
    """Read one YAML document and note in `lines` where everything in it stands."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        _walk(node, (), lines, label)
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _walk(node: yaml.Node | None, path: Location, lines: dict[Location, int], label: str) -> None:
    """Note the line of every key and item; refuse keys given twice and aliases (a recursive one would never end)."""
    if node is None:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise YamlError(f"{label}, line {line}: `{name}` is given twice; once is expected")
            if value.start_mark.index < key.start_mark.index:
                raise YamlError(f"{label}, line {line}: aliases (*name) are not accepted; write the value out")
            seen.add(name)
            lines[(*path, name)] = line
            _walk(value, (*path, name), lines, label)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            if item.start_mark.index <= node.start_mark.index:
                raise YamlError(
                    f"{label}, line {node.start_mark.line + 1}: aliases (*name) are not accepted; write the value out"
                )
            _walk(item, (*path, index), lines, label)
