"""Numbers and words that scripts and Python share; a script that names one gets it as a local variable.

In: nothing. Out: `CONSTANTS`, by the name that Lua knows them under, too.
"""

from __future__ import annotations

from typing import Final

# Redis itself forgets keys so long after the reaper should have, if an entry of the agenda is ever lost.
NET_S: Final = 3600
# How often a job that has its answer, and waits for the rest, is looked at: its engine may have gone down meanwhile.
LOOK_S: Final = 1.0
# One turn in so many begins at the second priority; one in its square at the third.
SHARE: Final = 5
# So many owners are looked at, one by one, to say how many units are ahead of one; of more, the rest is estimated.
MAX_WALK: Final = 128
# Of each new sample in the moving averages of an engine's pace: the last ten or so decide.
PACE_WEIGHT: Final = 0.2

# Receivers that are down for a weekend get their events; after that the log says that they did not.
MAX_AGE_S: Final = 72 * 3600
# How long the log of a delivery is kept once it has ended.
LOG_TTL_S: Final = 7 * 24 * 3600
# Of an owner's deliveries so many are kept, and as many again that are still to be made.
MAX_LOG: Final = 10_000
# Instead of a URL: no receiver gets the event, the owner's endpoints neither. No URL of a client looks like this.
NOBODY: Final = "none:"
MAX_ATTEMPTS_KEPT: Final = 50
# One call does not hold redis up, however much is due or was given up meanwhile.
MAX_TAKEN: Final = 100
# A full owner or host is passed over, so more of them are looked at than can be full at a time.
MAX_TURNS: Final = 512

# Small enough that reading or writing one holds redis up for less than a millisecond.
CHUNK_BYTES: Final = 512 * 1024

# Limits are per minute, and time is counted in microseconds.
MINUTE_US: Final = 60_000_000
# How long the ledger says what was charged for a request; after a minute nothing of it can be given back any more.
LEDGER_TTL_S: Final = 600
# Retry-After of a request beyond the concurrency limit.
OPEN_WAIT_US: Final = 1_000_000
# By more than this no clock goes back unless it is set.
SET_BACK_US: Final = 1_000_000

# What a kept answer takes beside its own bytes: names, places in lists, redis' own overhead.
CACHE_ENTRY_BYTES: Final = 800
# No answer takes more than this part of the room for all.
CACHE_PART: Final = 8

# Most jobs that may follow an equal one: the script that ends it ends them in the same step.
MAX_FOLLOWERS: Final = 256

# Ends of jobs that are kept for who asks for metrics: what 70 of them a second leave between two looks of five minutes.
MAX_UNCOUNTED: Final = 20_000

# Ended jobs that wait to be kept for data sets; each is an id.
MAX_UNCAPTURED: Final = 100_000

CONSTANTS: Final[dict[str, int | float | str]] = {name: value for name, value in globals().items() if name.isupper()}
