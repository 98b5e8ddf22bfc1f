"""The schema of the records in redis: one number, which jobs and backups carry.

In: nothing. Out: the number. New fields do not raise it: older releases leave aside what they do not know. It grows
when a record could be misread by a release that does not know what has changed. Such a release then gives the units of
a newer job back, and refuses a newer backup.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = 2
SCHEMA_WITHOUT_TOOLS: Final = 1
"""Of a job without functions: an older release runs it as this one does, but would leave functions out of any other."""
