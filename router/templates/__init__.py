"""Named JSON Schemas for what pictures are often asked about; ``hybrid.template`` chooses one by its name.

In: ``NAME.json`` files beside this one, JSON Schemas whose titles and descriptions are English, with the Chinese ones
under ``x-zh``. Out: the schema in either language.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Final, Literal

import orjson

NAMES: Final = ("receipt", "price_tag", "table")


@cache
def _read(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = orjson.loads(resources.files(__name__).joinpath(f"{name}.json").read_bytes())
    return schema


def template_schema(name: str, language: Literal["en", "zh"] = "en") -> dict[str, Any]:
    """Return a template's schema with its titles and descriptions in one language.

    Raises:
        KeyError: if there is no such template.
    """
    if name not in NAMES:
        raise KeyError(name)
    localised: dict[str, Any] = _localise(_read(name), language)
    return localised


def _localise(value: Any, language: str) -> Any:
    if isinstance(value, list):
        return [_localise(item, language) for item in value]
    if not isinstance(value, dict):
        return value
    own = value.get("x-zh", {}) if language == "zh" else {}
    return {key: own.get(key) or _localise(item, language) for key, item in value.items() if key != "x-zh"}
