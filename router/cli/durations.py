"""Lengths of time as people type them: ``90s``, ``15m``, ``24h``, ``7d``, ``2w``.

In: text. Out: seconds; and back.
"""

from __future__ import annotations

import re
from typing import Final

import typer

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(value: str, *, option: str | None = None, is_zero_good: bool = False) -> int:
    """Return how many seconds a length of time has.

    Args:
        value: a number with its unit; 0 needs none.
        option: that it was given to, for the refusal; None where typer knows.
        is_zero_good: no time at all is an answer too.

    Raises:
        typer.BadParameter: if it is none, or nothing at all.
    """
    text = value.strip().lower()
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", "0s" if text == "0" else text)
    if found is None or (int(found[1]) == 0 and not is_zero_good):
        raise typer.BadParameter(f"{value!r} is no length of time such as 90s, 15m, 24h or 7d", param_hint=option)
    return int(found[1]) * _UNITS_S[found[2]]


def show_duration(seconds: float) -> str:
    """Write a length of time in the largest unit that divides it."""
    whole = round(seconds)
    unit = next(unit for unit in ("w", "d", "h", "m", "s") if whole % _UNITS_S[unit] == 0)
    return f"{whole // _UNITS_S[unit]}{unit}" if whole else "0"
