"""The Lua that changes endpoints and deliveries: each script is one atomic step.

In: keys' prefix, a clock reading ('' means the server's own clock) and arguments. Out: small integers or lists. What
a worker writes about an attempt carries the epoch it was given at `CLAIM`; with another epoch it is refused.
"""

from __future__ import annotations

from typing import Final

from router.jobs.fan_out import FAN_OUT

_MAX_ATTEMPTS_KEPT: Final = 50

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

# clock, id, lease seconds -> {} (nothing to do)
# | {epoch, attempts, failures, owner, endpoint, event, type, URL, body, secret, old secret}; no secrets: ''
CLAIM: Final = (
    _PRELUDE
    + """
local now, id = clock(ARGV[1]), ARGV[2]
local key = delivery_key(id)
local found = redis.call('HMGET', key, 'state', 'next_at', 'endpoint', 'owner', 'event', 'type', 'url', 'body')
if found[1] ~= 'pending' or tonumber(found[2]) > now then return {} end
local endpoint, url, secret, old_secret = found[3], found[7], '', ''
if endpoint ~= '' then
  local settings = redis.call('HMGET', endpoint_key(endpoint), 'status', 'url', 'secret', 'old_secret',
    'old_secret_until')
  if settings[1] ~= 'enabled' then
    finish_delivery(id, 'failed', settings[1] and 'endpoint_disabled' or 'endpoint_deleted')
    return {}
  end
  url, secret = settings[2], settings[3]
  if now < tonumber(settings[5]) then old_secret = settings[4] end
end
redis.call('HSET', key, 'state', 'in_progress', 'claimed_at', stamp(now), 'sent', 0)
redis.call('ZADD', DELIVERIES, now + tonumber(ARGV[3]), id)
return {redis.call('HINCRBY', key, 'epoch', 1), redis.call('HINCRBY', key, 'attempts', 1),
  tonumber(redis.call('HGET', key, 'failures')), found[4], endpoint, found[5], found[6], url, found[8],
  secret, old_secret}
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
    redis.call('HSET', key, 'state', 'pending', 'next_at', stamp(due), 'sent', 0)
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

# clock, resend seconds, batch, end of a log entry that says the attempt was lost -> list of ids to send now
SWEEP: Final = (
    _PRELUDE
    + """
local now, resend, due = clock(ARGV[1]), tonumber(ARGV[2]), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DELIVERIES, '-inf', now, 'LIMIT', 0, tonumber(ARGV[3]))) do
  local key = delivery_key(id)
  local found = redis.call('HMGET', key, 'state', 'epoch', 'attempts', 'claimed_at')
  if found[1] == 'in_progress' then
    -- Whoever posted it is gone, and whether the receiver has it is not known: it gets it again, under the same id.
    keep_attempt(id, '{"number":' .. found[3] .. ',"started_at":' .. found[4] .. ',' .. ARGV[4])
    redis.call('HSET', key, 'state', 'pending', 'next_at', stamp(now), 'lost', found[2])
  end
  if found[1] == 'in_progress' or found[1] == 'pending' then
    -- A line that is merely long must not fill with copies of the same message: wait twice as long each time.
    local sent = redis.call('HINCRBY', key, 'sent', 1)
    redis.call('ZADD', DELIVERIES, now + resend * math.min(2 ^ (sent - 1), 32), id)
    due[#due + 1] = id
  else
    redis.call('ZREM', DELIVERIES, id)
  end
end
return due
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
redis.call('HSET', key, 'state', 'pending', 'failure', '', 'failures', 0, 'sent', 0, 'next_at', stamp(now),
  'expires_at', stamp(now + MAX_AGE))
redis.call('PERSIST', key)
redis.call('PERSIST', attempts_key(id))
redis.call('ZADD', DELIVERIES, now, id)
return 1
"""
)
