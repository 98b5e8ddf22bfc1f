"""What an ACL user of redis may do, as docs/high-availability.md gives it.

In: the pages. Out: the rights, as ``ACL SETUSER`` takes them.
"""

from __future__ import annotations

import re

from tests.docs.pages import ROOT


def documented_rights() -> list[str]:
    """Return the rights that the pages give, which are the same in both languages."""
    found = {
        match[1]
        for page in ("high-availability.md", "high-availability.zh.md")
        for match in re.finditer(r"^user glowl on >PASSWORD (.+)$", (ROOT / "docs" / page).read_text("utf-8"), re.M)
    }
    (rights,) = found
    return rights.split()
