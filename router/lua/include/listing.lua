-- A list of each owner's jobs: `jobs:LIST`, a sorted set of ids by when they were accepted. The list is an owner's or,
-- since the lines of one batch would bury everything else, `OWNER|BATCH`. A record expires by itself, and nothing tells
-- the list: each addition looks at a few random entries and drops those that lead nowhere, so that they stay few. The
-- list of an owner who sends nothing more expires.
--@include clock
local function jobs_key(list) return prefix .. 'jobs:' .. list end

local function list_job(list, id, at, keep)
  local key = jobs_key(list)
  redis.call('ZADD', key, 'NX', at, id)
  for _, other in ipairs(redis.call('ZRANDMEMBER', key, 4)) do
    if redis.call('EXISTS', prefix .. 'job:' .. other) == 0 then redis.call('ZREM', key, other) end
  end
  if redis.call('TTL', key) < keep then redis.call('EXPIRE', key, keep) end
end
