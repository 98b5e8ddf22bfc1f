"""The Lua that keeps a list of each owner's jobs: part of the scripts that create, end and delete jobs.

In: a list and an id inside a running script. Out: ``jobs:LIST``, a sorted set of ids by when they were accepted. The
list is an owner's or, since the lines of one batch would bury everything else, ``OWNER|BATCH``. A record expires by
itself, and nothing tells the list: each addition looks at a few random entries and drops those that lead nowhere, so
that they stay a small part of it; an owner who sends nothing more has no list after a while.
"""

from __future__ import annotations

from typing import Final

# Expects ``prefix`` to be set.
LISTING: Final = """
local function jobs_key(list) return prefix .. 'jobs:' .. list end

local function list_job(list, id, at, keep)
  local key = jobs_key(list)
  redis.call('ZADD', key, 'NX', at, id)
  for _, other in ipairs(redis.call('ZRANDMEMBER', key, 4)) do
    if redis.call('EXISTS', prefix .. 'job:' .. other) == 0 then redis.call('ZREM', key, other) end
  end
  if redis.call('TTL', key) < keep then redis.call('EXPIRE', key, keep) end
end
"""
