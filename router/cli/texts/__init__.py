"""Every sentence the commands say, in English and Chinese, side by side so that neither is forgotten.

In: a key, a language, values. Out: one string. Options' help texts stay English: typer fixes them at import.
"""

from __future__ import annotations

from policies.text import Language, Text
from router.cli.texts import access, asking, downloads, keeping, looping, owning, proving, starting

TEXTS: dict[str, Text] = {
    **starting.TEXTS,
    **asking.TEXTS,
    **access.TEXTS,
    **owning.TEXTS,
    **keeping.TEXTS,
    **downloads.TEXTS,
    **looping.TEXTS,
    **proving.TEXTS,
}


def say(key: str, language: Language, **values: object) -> str:
    """One sentence, filled in."""
    return TEXTS[key].of(language).format(**values)
