"""The schema of the records in redis: one number, which jobs and backups carry, and how newer records are read.

In: nothing, or a record as redis has it. Out: the number; or the fields that this release knows. New fields do not
raise the number: older releases leave aside what they do not know. It grows when a release that does not know of a
change could misread a record. Such a release then gives the units of a newer job back, and refuses a newer backup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

SCHEMA: Final = 2
SCHEMA_WITHOUT_TOOLS: Final = 1
"""Of a job without functions: an older release runs it as this one does, but would leave functions out of any other."""


def known_fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a newer release has added: while machines are upgraded one by one, old ones read new records.

    Args:
        kind: a dataclass.
        data: its fields, and perhaps others.
    """
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in data.items() if name in names}
