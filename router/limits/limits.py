"""How much one owner, key or address may do, and how that is written.

In: a text such as ``requests=60/min, tokens=100k/min, concurrent=8``. Out: the frozen `Limits`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final, Self

# What a limit may be at most: charges are counted in sixty-millionths of one, and redis' scripts have no whole numbers
# beyond 2**53. Pixels are counted by the thousand.
MAX_LIMIT: Final = 100_000_000
_MAX_MEGAPIXELS: Final = MAX_LIMIT // 1000
# Written for a limit that is lifted: unlike one that is not named, it is not the default either.
UNLIMITED: Final = 0

_NAMES: Final = {
    "requests": "requests_per_minute",
    "pictures": "pictures_per_minute",
    "megapixels": "megapixels_per_minute",
    "tokens": "tokens_per_minute",
    "concurrent": "max_requests",
    "jobs": "max_unfinished_jobs",
}
_PER_MINUTE: Final = frozenset({"requests", "pictures", "megapixels", "tokens"})
_FACTORS: Final = {"": 1, "k": 1_000, "m": 1_000_000}
_VALUE: Final = re.compile(r"(\d{1,9})\s*([km]?)\s*(/\s*(?:m|min|minute)\.?)?", re.IGNORECASE)
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not said, so that a default counts. `UNLIMITED`: not limited, whatever the default is.

    Attributes:
        requests_per_minute: that ask something.
        pictures_per_minute: sent, earlier turns' included.
        megapixels_per_minute: of these pictures, in millions of pixels.
        tokens_per_minute: read and written.
        max_requests: open at a time.
        max_unfinished_jobs: queued or running.
    """

    requests_per_minute: int | None = None
    pictures_per_minute: int | None = None
    megapixels_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_requests: int | None = None
    max_unfinished_jobs: int | None = None

    def over(self, default: Limits) -> Limits:
        """Return these limits, with those of a default where nothing is said."""
        if default == NO_LIMITS:
            return self
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        return Limits(**{name: getattr(default, name) if value is None else value for name, value in mine.items()})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form in which limits are written.

        Args:
            text: ``NAME=NUMBER`` or ``NAME=none``, separated by commas; empty for no limits. ``k`` and ``M`` after a
                number are thousands and millions; ``/min`` may follow what is counted per minute.

        Raises:
            ValueError: saying what would be accepted.
        """
        found: dict[str, int] = {}
        for entry in filter(None, (each.strip() for each in text.split(","))):
            name, is_there, value = (each.strip() for each in entry.partition("="))
            if not is_there or name not in _NAMES:
                raise ValueError(f"'{entry}' is no limit; write NAME=NUMBER with a name out of {', '.join(_NAMES)}")
            if _NAMES[name] in found:
                raise ValueError(f"'{name}' is limited twice")
            found[_NAMES[name]] = UNLIMITED if value.lower() == _NONE else _to_number(name, value)
        return cls(**found)

    def __str__(self) -> str:
        """Write them as `parse` reads them."""
        said = {name: getattr(self, field) for name, field in _NAMES.items()}
        return ", ".join(f"{name}={_to_text(name, value)}" for name, value in said.items() if value is not None)


NO_LIMITS: Final = Limits()


def to_limits(value: object) -> object:
    """Read limits where they may be written, or be given as such.

    Raises:
        ValueError: as `Limits.parse` does.
    """
    return Limits.parse(value) if isinstance(value, str) else value


def check_no_jobs(limits: Limits) -> Limits:
    """Return limits of keys or addresses: jobs are counted by owner alone.

    Raises:
        ValueError: if they limit jobs.
    """
    if limits.max_unfinished_jobs is not None:
        raise ValueError("'jobs' counts by owner only; write it in GLOWL_LIMITS, or with `glowl owners set`")
    return limits


def _to_number(name: str, value: str) -> int:
    found = _VALUE.fullmatch(value)
    if found is None or (found[3] and name not in _PER_MINUTE):
        example = "100k/min" if name in _PER_MINUTE else "8"
        raise ValueError(f"'{name}={value}' is no limit; write a number as {name}={example}, or {name}={_NONE}")
    number = int(found[1]) * _FACTORS[found[2].lower()]
    most = _MAX_MEGAPIXELS if name == "megapixels" else MAX_LIMIT
    if not 0 < number <= most:
        raise ValueError(f"'{name}={value}': the limit is 1 to {most}; {name}={_NONE} lifts it")
    return number


def _to_text(name: str, value: int) -> str:
    if value == UNLIMITED:
        return _NONE
    unit = next((unit for unit in ("m", "k") if value % _FACTORS[unit] == 0), "")
    return f"{value // _FACTORS[unit]}{unit.replace('m', 'M')}{'/min' if name in _PER_MINUTE else ''}"
