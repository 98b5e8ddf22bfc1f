"""Which codes the source gives to its refusals and to its records of failures.

In: the Python files of `router` and `engines`. Out: codes, by the class of error that carries them.

A code is a string that is given as ``code=``, as a dictionary's ``"code"``, to a name ``code``, or to a function or a
data class that has a parameter of that name. What another server said is passed on and not found here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

# Their codes are exit statuses, or what only an operator reads.
_OTHERS: Final = ("router/cli/", "router/mcp/", "engines/finetune/", "engines/hub/", "engines/owl2_vllm/")
_NO_CODES: Final = ("_failed", "fill")  # the first is for traces, the second for texts
_CODE: Final = re.compile(r"[a-z]+(_[a-z0-9]+)+|overloaded|conflict")
# What carries a code where no class of error is named.
RECORD: Final = ""


@cache
def find_codes(root: Path) -> Mapping[str, set[str]]:
    """Return a tree's codes by the name of the class of error, or by `RECORD`; it is read once."""
    trees = [
        ast.parse(path.read_text("utf-8"))
        for folder in ("router", "engines")
        for path in sorted((root / folder).rglob("*.py"))
        if not path.relative_to(root).as_posix().startswith(_OTHERS)
    ]
    classes = {name: place for tree in trees for name, place in _data_classes(tree)}
    found: dict[str, set[str]] = {}
    for tree in trees:
        for carrier, value in _given(tree, {**classes, **dict(_functions(tree))}):
            codes = {text for text in _strings(value, tree) if _CODE.fullmatch(text)}
            found.setdefault(carrier if carrier.endswith("Error") else RECORD, set()).update(codes)
    return found


def _given(tree: ast.Module, places: dict[str, int]) -> Iterator[tuple[str, ast.expr]]:
    """Yield each expression whose value is a code, and the name of what it is given to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name_of(node.func) not in _NO_CODES:
            name = _name_of(node.func)
            yield from ((name, each.value) for each in node.keywords if each.arg == "code")
            if name in places:
                yield from ((name, each) for each in node.args[places[name] : places[name] + 1])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield RECORD, value
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                names = [_name_of(each) for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
                if "code" in names:
                    is_tuple = isinstance(node.value, ast.Tuple)
                    yield RECORD, node.value.elts[names.index("code")] if is_tuple else node.value


def _strings(value: ast.expr, tree: ast.Module) -> set[str]:
    """Return the strings in an expression, and those of a table that it looks something up in."""
    found = [each.value for each in ast.walk(value) if isinstance(each, ast.Constant)]
    for call in ast.walk(value):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "get":
            table = _name_of(call.func.value)
            found = [each for each in found if each != getattr(call.args[0], "value", None)]
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and any(_name_of(each) == table for each in node.targets):
                    found += [each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
    return {each for each in found if isinstance(each, str)}


def _functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the functions with a parameter for a code, and its place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            parameters = [each.arg for each in node.args.args if each.arg != "self"]
            if "code" in parameters:
                yield node.name, parameters.index("code")


def _data_classes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the classes with a field for a code, and its place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            fields = [_name_of(each.target) for each in node.body if isinstance(each, ast.AnnAssign)]
            if "code" in fields:
                yield node.name, fields.index("code")


def _name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
