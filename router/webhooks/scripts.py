"""The Lua that changes endpoints and deliveries: each script is one atomic step.

In: keys' prefix, a clock reading ('' means the server's own clock) and arguments. Out: small integers or lists. What
a worker writes about an attempt carries the epoch it was given at `TAKE`; with another epoch it is refused.
"""

from __future__ import annotations

from typing import Final

from router.jobs.fan_out import FAN_OUT

_MAX_ATTEMPTS_KEPT: Final = 50
# One call does not hold redis up, however much is due or was given up meanwhile.
_BATCH: Final = 100
# Places in a line that is full are passed over, so more are looked at than can be full at a time.
_MAX_WALK: Final = 512

_PRELUDE: Final = (
    """
local prefix = KEYS[1]
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local function stamp(time) return string.format('%.6f', time) end
"""
    + FAN_OUT
    + f"""
local function keep_attempt(id, entry)
  redis.call('RPUSH', attempts_key(id), entry)
  redis.call('LTRIM', attempts_key(id), -{_MAX_ATTEMPTS_KEPT}, -1)
end
"""
    + """
local function finish_delivery(id, state, failure)
  redis.call('HSET', delivery_key(id), 'state', state, 'failure', failure, 'next_at', '')
  redis.call('ZREM', DELIVERIES, id)
  redis.call('EXPIRE', delivery_key(id), LOG_TTL)
  redis.call('EXPIRE', attempts_key(id), LOG_TTL)
end
"""
)

# clock, owner, URL or '', event id, type, body -> how many deliveries were planned
EMIT: Final = _PRELUDE + "return fan_out(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], clock(ARGV[1]))"

# clock, id, owner, name, URL, types (comma list), secret, most endpoints -> 1 | 0 (the owner has that many)
CREATE_ENDPOINT: Final = (
    _PRELUDE
    + """
local now, id, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
if redis.call('ZCARD', endpoints_key(owner)) >= tonumber(ARGV[8]) then return 0 end
redis.call('HSET', endpoint_key(id), 'owner', owner, 'name', ARGV[4], 'url', ARGV[5], 'event_types', ARGV[6],
  'secret', ARGV[7], 'old_secret', '', 'old_secret_until', 0, 'status', 'enabled',
  'created_at', stamp(now), 'updated_at', stamp(now))
-- All with the same score: ids sort by age, and a list can go on after an id that is gone.
redis.call('ZADD', endpoints_key(owner), 0, id)
return 1
"""
)

# clock, id, owner, then field, value, field, value ... -> 1 | 0 (no such endpoint of the owner)
UPDATE_ENDPOINT: Final = (
    _PRELUDE
    + """
local now, key = clock(ARGV[1]), endpoint_key(ARGV[2])
if redis.call('HGET', key, 'owner') ~= ARGV[3] then return 0 end
for i = 4, #ARGV, 2 do
  if redis.call('HGET', key, ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', key, ARGV[i], ARGV[i + 1], 'updated_at', stamp(now))
  end
end
return 1
"""
)

# id, owner -> 1 | 0
DELETE_ENDPOINT: Final = (
    _PRELUDE
    + """
local id, owner = ARGV[1], ARGV[2]
if redis.call('HGET', endpoint_key(id), 'owner') ~= owner then return 0 end
redis.call('DEL', endpoint_key(id), log_key(id))
redis.call('ZREM', endpoints_key(owner), id)
return 1
"""
)

# clock, key without prefix, owner, new secret, seconds for which the old one still signs -> 1 | 0
ROTATE: Final = (
    _PRELUDE
    + """
local now, key, overlap = clock(ARGV[1]), prefix .. ARGV[2], tonumber(ARGV[5])
if redis.call('HGET', key, 'owner') ~= ARGV[3] then return 0 end
redis.call('HSET', key, 'old_secret', overlap > 0 and redis.call('HGET', key, 'secret') or '',
  'old_secret_until', stamp(now + overlap), 'secret', ARGV[4], 'updated_at', stamp(now))
return 1
"""
)

_LINES: Final = (
    """
local TURNS = prefix .. 'delivery_turns'
local function hosts_key(owner) return prefix .. 'delivery_hosts:' .. owner end
local function line_key(owner, host) return prefix .. 'delivery_line:' .. owner .. '|' .. host end

-- Puts a member behind all others, be it new or not.
local function to_the_end(set, member)
  local last = redis.call('ZREVRANGE', set, 0, 0, 'WITHSCORES')
  redis.call('ZADD', set, tonumber(last[2] or 0) + 1, member)
end

local function host_of(url)
  local authority = string.match(url, '^%a+://([^/?#]*)') or ''
  local host = string.match(authority, '^%[[^%]]*%]') or string.match(authority, '^(.-)%.*:?%d*$')
  return string.lower(host or '')
end

local function line_up(id)
  local found = redis.call('HMGET', delivery_key(id), 'owner', 'endpoint', 'url', 'next_at')
  local owner, url = found[1], found[3]
  if found[2] ~= '' then url = redis.call('HGET', endpoint_key(found[2]), 'url') or '' end
  local host = host_of(url)
  redis.call('ZADD', line_key(owner, host), found[4], id)
  if not redis.call('ZSCORE', hosts_key(owner), host) then to_the_end(hosts_key(owner), host) end
  if not redis.call('ZSCORE', TURNS, owner) then to_the_end(TURNS, owner) end
end

-- Takes the first out of a line, and its owner and host to the end of theirs.
local function take_first(owner, host)
  local line, hosts = line_key(owner, host), hosts_key(owner)
  local id = redis.call('ZPOPMIN', line)[1]
  if redis.call('EXISTS', line) == 1 then to_the_end(hosts, host) else redis.call('ZREM', hosts, host) end
  if redis.call('EXISTS', hosts) == 1 then to_the_end(TURNS, owner) else redis.call('ZREM', TURNS, owner) end
  return id
end
"""
    + f"local BATCH, MAX_WALK = {_BATCH}, {_MAX_WALK}\n"
)

# clock -> 1 | 0 (nothing waits for an attempt now)
IS_DUE: Final = (
    _PRELUDE
    + _LINES
    + """
if redis.call('EXISTS', TURNS) == 1 then return 1 end
return redis.call('ZCOUNT', DELIVERIES, '-inf', clock(ARGV[1])) > 0 and 1 or 0
"""
)

# clock, lease seconds, end of a log entry that says the attempt was lost, JSON of who can have no more attempts now:
# {owners, hosts, lines ("owner|host")}
# -> 1 (ask again: there was too much for one call) | {} (nothing that may be taken)
# | {id, host, epoch, attempts, failures, owner, endpoint, event, type, URL, body, secret, old secret}; no secrets: ''
TAKE: Final = (
    _PRELUDE
    + _LINES
    + """
local now, lease, lost, full = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[3], cjson.decode(ARGV[4])
local function set_of(names)
  local set = {}
  for _, name in ipairs(names) do set[name] = true end
  return set
end
local full_owners, full_hosts, full_lines = set_of(full.owners), set_of(full.hosts), set_of(full.lines)

local due = redis.call('ZRANGEBYSCORE', DELIVERIES, '-inf', now, 'LIMIT', 0, BATCH)
for _, id in ipairs(due) do
  local key = delivery_key(id)
  local found = redis.call('HMGET', key, 'state', 'epoch', 'attempts', 'claimed_at')
  if found[1] == 'in_progress' then
    -- Whoever posted it is gone, and whether the receiver has it is not known: it gets it again, under the same id.
    keep_attempt(id, '{"number":' .. found[3] .. ',"started_at":' .. found[4] .. ',' .. lost)
    redis.call('HSET', key, 'state', 'pending', 'next_at', stamp(now), 'lost', found[2])
  end
  redis.call('ZREM', DELIVERIES, id)
  if found[1] == 'in_progress' or found[1] == 'pending' then line_up(id) end
end

-- Begins an attempt, unless there is none to make any more.
local function begin(id, host)
  local key = delivery_key(id)
  local found = redis.call('HMGET', key, 'state', 'next_at', 'endpoint', 'owner', 'event', 'type', 'url', 'body')
  if found[1] ~= 'pending' or tonumber(found[2]) > now then return nil end
  local endpoint, url, secret, old_secret = found[3], found[7], '', ''
  if endpoint ~= '' then
    local settings = redis.call('HMGET', endpoint_key(endpoint), 'status', 'url', 'secret', 'old_secret',
      'old_secret_until')
    if settings[1] ~= 'enabled' then
      finish_delivery(id, 'failed', settings[1] and 'endpoint_disabled' or 'endpoint_deleted')
      return nil
    end
    url, secret = settings[2], settings[3]
    if now < tonumber(settings[5]) then old_secret = settings[4] end
  end
  redis.call('HSET', key, 'state', 'in_progress', 'claimed_at', stamp(now))
  redis.call('ZADD', DELIVERIES, now + lease, id)
  return {id, host, redis.call('HINCRBY', key, 'epoch', 1), redis.call('HINCRBY', key, 'attempts', 1),
    tonumber(redis.call('HGET', key, 'failures')), found[4], endpoint, found[5], found[6], url, found[8],
    secret, old_secret}
end

local function next_host(owner)
  for _, host in ipairs(redis.call('ZRANGE', hosts_key(owner), 0, MAX_WALK - 1)) do
    if not full_hosts[host] and not full_lines[owner .. '|' .. host] then return host end
  end
end

local num_looked_at = 0
for _, owner in ipairs(redis.call('ZRANGE', TURNS, 0, MAX_WALK - 1)) do
  local host = not full_owners[owner] and next_host(owner)
  while host do
    if num_looked_at >= BATCH then return 1 end
    num_looked_at = num_looked_at + 1
    local begun = begin(take_first(owner, host), host)
    if begun then return begun end
    host = next_host(owner)
  end
end
return #due >= BATCH and 1 or {}
"""
)

# clock, id, epoch, outcome (succeeded | failed | pending), seconds until the next attempt, log entry,
# 1 if the endpoint is to be disabled -> '' (no longer yours) | the state it has now
RECORD: Final = (
    _PRELUDE
    + """
local now, id, epoch, outcome = clock(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local key = delivery_key(id)
local found = redis.call('HMGET', key, 'state', 'epoch', 'lost', 'expires_at', 'endpoint')
-- An attempt that was given up for lost, and not made again yet, may still say how it ended.
if found[2] ~= epoch or not (found[1] == 'in_progress' or (found[1] == 'pending' and found[3] == epoch)) then
  return ''
end
redis.call('HDEL', key, 'lost')
keep_attempt(id, ARGV[6])
if outcome == 'pending' then
  local due = now + tonumber(ARGV[5])
  if due <= tonumber(found[4]) then
    redis.call('HINCRBY', key, 'failures', 1)
    redis.call('HSET', key, 'state', 'pending', 'next_at', stamp(due))
    redis.call('ZADD', DELIVERIES, due, id)
    return 'pending'
  end
  outcome = 'failed'
end
finish_delivery(id, outcome, outcome == 'failed' and (ARGV[7] == '1' and 'gone' or 'gave_up') or '')
if ARGV[7] == '1' and redis.call('HGET', endpoint_key(found[5]), 'status') == 'enabled' then
  redis.call('HSET', endpoint_key(found[5]), 'status', 'disabled', 'updated_at', stamp(now))
end
return outcome
"""
)

# clock, id, owner -> 0 (no such delivery of the owner) | -1 (its endpoint is disabled or gone) | 1
REDELIVER: Final = (
    _PRELUDE
    + """
local now, id = clock(ARGV[1]), ARGV[2]
local key = delivery_key(id)
local found = redis.call('HMGET', key, 'owner', 'state', 'endpoint')
if found[1] ~= ARGV[3] then return 0 end
if found[3] ~= '' and redis.call('HGET', endpoint_key(found[3]), 'status') ~= 'enabled' then return -1 end
if found[2] == 'in_progress' then return 1 end
redis.call('HSET', key, 'state', 'pending', 'failure', '', 'failures', 0, 'next_at', stamp(now),
  'expires_at', stamp(now + MAX_AGE))
redis.call('PERSIST', key)
redis.call('PERSIST', attempts_key(id))
redis.call('ZADD', DELIVERIES, now, id)
return 1
"""
)
