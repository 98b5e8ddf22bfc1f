"""What a key or a token is good for.

In: nothing. Out: the names of the scopes. Settings name them too, and settings know nothing of callers.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

# ask: questions, and one's own answers. jobs: lists of jobs, batches, webhooks as they are. files: uploads.
# admin: where events are sent, and the secrets that sign them.
Scope = Literal["ask", "jobs", "files", "admin"]
SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))
