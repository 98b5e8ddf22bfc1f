"""The Lua that changes job records: each script is one atomic step of the state machine.

In: keys' prefix, a clock reading ('' means the server's own clock) and arguments. Out: small integers or lists. Every
write by a worker carries the epoch it was given at `CLAIM`; a write with another epoch is refused, so a worker that
was thought dead cannot change a record that has moved on.
"""

from __future__ import annotations

from typing import Final

_PRELUDE: Final = """
local prefix = KEYS[1]
local function job_key(id) return prefix .. 'job:' .. id end
local function events_key(id) return prefix .. 'events:' .. id end
local LEASES, QUEUED, ACTIVITY = prefix .. 'leases', prefix .. 'queued', prefix .. 'activity'

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function event(id, kind, unit, epoch, text, state, logprobs)
  redis.call('XADD', events_key(id), '*', 'k', kind, 'u', unit, 'n', epoch, 'x', text, 's', state,
    'l', logprobs or '')
  redis.call('XADD', ACTIVITY, 'MAXLEN', '~', 4096, '*', 'j', id)
end

local function is_terminal(state)
  return state == 'completed' or state == 'failed' or state == 'cancelled' or state == 'incomplete'
end

local function enqueue(id, unit, due)
  redis.call('HSET', job_key(id), unit .. '.state', 'queued', unit .. '.sent', 0)
  redis.call('ZADD', QUEUED, due, id .. '|' .. unit)
end

local function drop(id, unit)
  redis.call('ZREM', LEASES, id .. '|' .. unit)
  redis.call('ZREM', QUEUED, id .. '|' .. unit)
end

local function units_of(id)
  local units = {}
  for name in string.gmatch(redis.call('HGET', job_key(id), 'units') or '', '[^,]+') do
    units[#units + 1] = name
  end
  return units
end

local function owns(id, unit, epoch)
  local found = redis.call('HMGET', job_key(id), unit .. '.state', unit .. '.epoch')
  return found[1] == 'in_progress' and found[2] == epoch
end

-- Ends a job. Its keys live on for the time the record itself names; a webhook is queued in the same step.
local function finish_job(id, state, now)
  local key = job_key(id)
  redis.call('HSET', key, 'state', state, 'completed_at', string.format('%.6f', now))
  for _, unit in ipairs(units_of(id)) do
    drop(id, unit)
    if not is_terminal(redis.call('HGET', key, unit .. '.state')) then
      redis.call('HSET', key, unit .. '.state', state == 'cancelled' and 'cancelled' or 'failed')
    end
  end
  drop(id, 'merge')
  local has_webhook = redis.call('HGET', key, 'webhook') == '1'
  if has_webhook then enqueue(id, 'webhook', now) end
  event(id, 'end', '', 0, '', state)
  local ttl = redis.call('HGET', key, 'ttl')
  redis.call('EXPIRE', key, ttl)
  redis.call('EXPIRE', events_key(id), ttl)
  return has_webhook
end

-- Records how a branch ended; whoever ends the last one queues the merge, once.
local function finish_branch(id, unit, epoch, state, result, now, resend)
  local key = job_key(id)
  redis.call('HSET', key, unit .. '.state', state, unit .. '.result', result)
  drop(id, unit)
  event(id, 'finished', unit, epoch, '', state)
  for _, name in ipairs(units_of(id)) do
    if not is_terminal(redis.call('HGET', key, name .. '.state')) then return false end
  end
  enqueue(id, 'merge', now + resend)
  return true
end
"""

# id, clock, spec, units (comma list), ttl, webhook flag, seconds until a queued branch is sent again -> 1 | 0 (exists)
CREATE: Final = (
    _PRELUDE
    + """
local id, now, resend = ARGV[1], clock(ARGV[2]), tonumber(ARGV[7])
if redis.call('EXISTS', job_key(id)) == 1 then return 0 end
redis.call('HSET', job_key(id), 'spec', ARGV[3], 'state', 'queued', 'units', ARGV[4],
  'ttl', ARGV[5], 'webhook', ARGV[6])
for _, unit in ipairs(units_of(id)) do enqueue(id, unit, now + resend) end
event(id, 'queued', '', 0, '', 'queued')
return 1
"""
)

# id, clock, unit, lease seconds -> epoch | 0 (nothing to do)
CLAIM: Final = (
    _PRELUDE
    + """
local id, now, unit, lease = ARGV[1], clock(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local key = job_key(id)
local state = redis.call('HGET', key, 'state')
if not state or (is_terminal(state) and unit ~= 'webhook') then return 0 end
if redis.call('HGET', key, unit .. '.state') ~= 'queued' then return 0 end
local epoch = redis.call('HINCRBY', key, unit .. '.epoch', 1)
redis.call('HSET', key, unit .. '.state', 'in_progress')
redis.call('ZREM', QUEUED, id .. '|' .. unit)
redis.call('ZADD', LEASES, now + lease, id .. '|' .. unit)
if state == 'queued' then
  redis.call('HSET', key, 'state', 'in_progress', 'started_at', string.format('%.6f', now))
end
if unit ~= 'webhook' then event(id, 'started', unit, epoch, '', '') end
return epoch
"""
)

# id, clock, unit, epoch, lease seconds -> 1 | 0 (no longer yours)
RENEW: Final = (
    _PRELUDE
    + """
local id, now, unit = ARGV[1], clock(ARGV[2]), ARGV[3]
if not owns(id, unit, ARGV[4]) then return 0 end
redis.call('ZADD', LEASES, now + tonumber(ARGV[5]), id .. '|' .. unit)
return 1
"""
)

# id, unit, epoch, text, log probabilities or '' -> 1 | 0 (no longer yours)
APPEND: Final = (
    _PRELUDE
    + """
if not owns(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
event(ARGV[1], 'delta', ARGV[2], ARGV[3], ARGV[4], '', ARGV[5])
return 1
"""
)

# id, clock, unit, epoch, state, result, resend seconds -> 0 (no longer yours) | 1 | 2 (that was the last branch)
FINISH: Final = (
    _PRELUDE
    + """
local id, now, unit, epoch = ARGV[1], clock(ARGV[2]), ARGV[3], ARGV[4]
if not owns(id, unit, epoch) then return 0 end
if unit == 'webhook' then
  redis.call('HSET', job_key(id), unit .. '.state', ARGV[5], unit .. '.result', ARGV[6])
  drop(id, unit)
  return 1
end
if finish_branch(id, unit, epoch, ARGV[5], ARGV[6], now, tonumber(ARGV[7])) then return 2 end
return 1
"""
)

# id, clock, unit, epoch, seconds until it is sent again, 1 if the run counts as a failure, most failures
# -> 0 (no longer yours) | 1 | -1 (no runs left; still yours)
RELEASE: Final = (
    _PRELUDE
    + """
local id, now, unit, epoch = ARGV[1], clock(ARGV[2]), ARGV[3], ARGV[4]
if not owns(id, unit, epoch) then return 0 end
if ARGV[6] == '1' and redis.call('HINCRBY', job_key(id), unit .. '.failures', 1) >= tonumber(ARGV[7]) then return -1 end
drop(id, unit)
enqueue(id, unit, now + tonumber(ARGV[5]))
if unit ~= 'webhook' then event(id, 'requeued', unit, epoch, '', '') end
return 1
"""
)

# id, clock, merge epoch, job state, final, error -> 0 (no longer yours) | 1 | 2 (and a webhook is due)
COMPLETE: Final = (
    _PRELUDE
    + """
local id, now, epoch = ARGV[1], clock(ARGV[2]), ARGV[3]
if not owns(id, 'merge', epoch) then return 0 end
local key = job_key(id)
redis.call('HSET', key, 'merge.state', ARGV[4] == 'failed' and 'failed' or 'completed')
if ARGV[5] ~= '' then redis.call('HSET', key, 'final', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', key, 'error', ARGV[6]) end
if finish_job(id, ARGV[4], now) then return 2 end
return 1
"""
)

# id, clock -> '' (no such job) | the state it has now
CANCEL: Final = (
    _PRELUDE
    + """
local id, now = ARGV[1], clock(ARGV[2])
local state = redis.call('HGET', job_key(id), 'state')
if not state then return '' end
if is_terminal(state) then return state end
if redis.call('HGET', job_key(id), 'merge.state') then redis.call('HSET', job_key(id), 'merge.state', 'cancelled') end
finish_job(id, 'cancelled', now)
return 'cancelled'
"""
)

# id -> 1 | 0
DELETE: Final = (
    _PRELUDE
    + """
local id = ARGV[1]
for _, unit in ipairs(units_of(id)) do drop(id, unit) end
drop(id, 'merge')
drop(id, 'webhook')
redis.call('DEL', events_key(id))
return redis.call('DEL', job_key(id))
"""
)

# clock, most failures, resend seconds, batch, result of a branch given up, job error of a merge given up
# -> list of 'id|unit' to send now
REAP: Final = (
    _PRELUDE
    + """
local now, most, resend, batch = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local due = {}

for _, member in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, batch)) do
  local id, unit = string.match(member, '^(.-)|(.*)$')
  local key = job_key(id)
  redis.call('ZREM', LEASES, member)
  if redis.call('HGET', key, unit .. '.state') == 'in_progress' then
    local epoch = redis.call('HGET', key, unit .. '.epoch')
    if redis.call('HINCRBY', key, unit .. '.failures', 1) < most then
      enqueue(id, unit, now)
      if unit ~= 'webhook' then event(id, 'requeued', unit, epoch, '', '') end
    elseif unit == 'webhook' then
      redis.call('HSET', key, 'webhook.state', 'failed')
    elseif unit == 'merge' then
      redis.call('HSET', key, 'error', ARGV[6], 'merge.state', 'failed')
      finish_job(id, 'failed', now)
    else
      finish_branch(id, unit, epoch, 'failed', ARGV[5], now, 0)
    end
  end
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', QUEUED, '-inf', now, 'LIMIT', 0, batch)) do
  local id, unit = string.match(member, '^(.-)|(.*)$')
  if redis.call('HGET', job_key(id), unit .. '.state') == 'queued' then
    -- A queue that is merely long must not fill with copies of the same message: wait twice as long each time.
    local sent = redis.call('HINCRBY', job_key(id), unit .. '.sent', 1)
    redis.call('ZADD', QUEUED, now + resend * math.min(2 ^ (sent - 1), 32), member)
    due[#due + 1] = member
  else
    redis.call('ZREM', QUEUED, member)
  end
end
return due
"""
)
