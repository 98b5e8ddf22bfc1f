"""What a file holds that stands for a variable: ``REDIS_URL_FILE=/run/secrets/redis`` in the place of ``REDIS_URL``.

In: the environment. Out: the file's value. Apart from `router.secret_files`, since commands that need no settings start
without pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

SUFFIX: Final = "_FILE"


def read_file(variable: str, environ: Mapping[str, str]) -> str:
    """Return what is in the file that ``VARIABLE_FILE`` names; empty if none is named.

    Raises:
        ValueError: if it cannot be read, or holds a value while the variable has one too.
    """
    path = environ.get(variable + SUFFIX, "").strip()
    try:
        value = Path(path).read_text("utf-8").strip() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', 'it is no text')}") from None
    if value and environ.get(variable, "").strip():
        raise ValueError(f"{variable} is set too; set one of them")
    return value
