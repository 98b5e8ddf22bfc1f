"""Lengths of time as people type them: ``90s``, ``15m``, ``24h``, ``7d``.

In: text. Out: seconds.
"""

from __future__ import annotations

import re
from typing import Final

import typer

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: str) -> int:
    """Return how many seconds a length of time has.

    Raises:
        typer.BadParameter: if it is none, or nothing at all.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value.strip().lower())
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter(f"{value!r} is no length of time such as 90s, 15m, 24h or 7d")
    return int(found[1]) * _UNITS_S[found[2]]
