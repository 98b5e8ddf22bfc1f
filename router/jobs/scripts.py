"""The Lua that changes job records: each script is one atomic step of the state machine.

In: keys' prefix, a clock reading ('' means the server's own clock) and arguments. Out: small integers or lists. Every
write by a worker carries the epoch it was given when it took the unit; a write with another epoch is refused, so a
worker that was thought dead cannot change a record that has moved on.

`tests.model.memory_store` says the same in Python, and a test drives both side by side.
"""

from __future__ import annotations

from typing import Final

from router.jobs.eta import PACE_WEIGHT
from router.jobs.fan_out import FAN_OUT
from router.jobs.listing import LISTING
from router.jobs.schedule import MAX_WALK, SHARE

# Redis itself forgets keys so long after the reaper should have: a net, should an entry of the agenda ever be lost.
NET_S: Final = 3600
# How often a job that has its answer, and waits for the rest, is looked at: its engine may have gone down meanwhile.
LOOK_S: Final = 1.0
# A draft of which nothing was said so long after its run began is not waited for once the answer is there.
QUIET_S: Final = 1.0

# What the two scripts of a running unit need: they run many times a job, and what is defined is defined at each run.
_CORE: Final = """
local prefix = KEYS[1]
local function job_key(id) return prefix .. 'job:' .. id end
local function events_key(id) return prefix .. 'events:' .. id end
local LEASES, ACTIVITY = prefix .. 'leases', prefix .. 'activity'

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- That a job was queued is no entry: a stream takes memory for many from its first one on, and most of a queue waits.
local function event(id, kind, unit, epoch, text, state, logprobs)
  redis.call('XADD', events_key(id), '*', 'k', kind, 'u', unit, 'n', epoch, 'x', text, 's', state,
    'l', logprobs or '')
  redis.call('XADD', ACTIVITY, 'MAXLEN', '~', 4096, '*', 'j', id, 'k', kind)
end

local function owns(id, unit, epoch)
  local found = redis.call('HMGET', job_key(id), unit .. '.state', unit .. '.epoch')
  return found[1] == 'in_progress' and found[2] == epoch
end
"""

_PRELUDE: Final = (
    _CORE
    + FAN_OUT
    + LISTING
    + f"""
local NET, SHARE, MAX_WALK, PACE_WEIGHT = {NET_S}, {SHARE}, {MAX_WALK}, {PACE_WEIGHT}
local LOOK, QUIET = {LOOK_S:g}, {QUIET_S:g}
"""
    + """
local function blob_key(sha) return prefix .. 'blob:' .. sha end
local function holders_key(sha) return prefix .. 'holders:' .. sha end
local function turns_key(queue, class) return prefix .. 'turns:' .. queue .. ':' .. class end
local function line_key(queue, class, owner) return prefix .. 'line:' .. queue .. ':' .. class .. ':' .. owner end
local DELAYED, AGENDA = prefix .. 'delayed', prefix .. 'agenda'
local QUEUES, UNFINISHED = prefix .. 'queues', prefix .. 'unfinished'

local function written(number) return string.format('%.6f', number) end

local function is_terminal(state)
  return state == 'completed' or state == 'failed' or state == 'cancelled' or state == 'incomplete'
end

local function units_of(id)
  local units = {}
  for name in string.gmatch(redis.call('HGET', job_key(id), 'units') or '', '[^,]+') do
    units[#units + 1] = name
  end
  return units
end

local function split(member) return string.match(member, '^(.-)|(.*)$') end

-- The lines: per queue and class the owners by turn, per owner its units by age.

local function take_out(queue, class, owner, member)
  local line = line_key(queue, class, owner)
  if redis.call('ZREM', line, member) == 0 then return false end
  redis.call('HINCRBY', QUEUES, 'depth:' .. queue .. ':' .. class, -1)
  if redis.call('EXISTS', line) == 0 then redis.call('ZREM', turns_key(queue, class), owner) end
  return true
end

local function line_up(id, unit)
  local key, member = job_key(id), id .. '|' .. unit
  local found = redis.call('HMGET', key, unit .. '.queue', 'class', 'owner', 'accepted_at')
  local queue, class, owner = found[1], found[2], found[3]
  redis.call('HSET', key, unit .. '.state', 'queued')
  redis.call('ZREM', DELAYED, member)
  if redis.call('ZADD', line_key(queue, class, owner), found[4], member) == 1 then
    redis.call('HINCRBY', QUEUES, 'depth:' .. queue .. ':' .. class, 1)
    if not redis.call('ZSCORE', turns_key(queue, class), owner) then
      redis.call('ZADD', turns_key(queue, class), redis.call('HINCRBY', QUEUES, 'turn', 1), owner)
    end
  end
  return queue
end

local function end_lease(id, unit)
  if redis.call('ZREM', LEASES, id .. '|' .. unit) == 1 then
    redis.call('HINCRBY', QUEUES, 'running:' .. redis.call('HGET', job_key(id), unit .. '.queue'), -1)
    return true
  end
  return false
end

local function drop(id, unit)
  local found = redis.call('HMGET', job_key(id), unit .. '.queue', 'class', 'owner')
  if not found[1] then return false end
  take_out(found[1], found[2], found[3], id .. '|' .. unit)
  redis.call('ZREM', DELAYED, id .. '|' .. unit)
  return end_lease(id, unit)
end

local function start(id, unit, now, lease, is_untold)
  local key = job_key(id)
  local epoch = redis.call('HINCRBY', key, unit .. '.epoch', 1)
  redis.call('HSET', key, unit .. '.state', 'in_progress', unit .. '.at', written(now))
  redis.call('ZADD', LEASES, now + lease, id .. '|' .. unit)
  redis.call('HINCRBY', QUEUES, 'running:' .. redis.call('HGET', key, unit .. '.queue'), 1)
  local is_first = redis.call('HGET', key, 'state') == 'queued'
  if not is_untold then event(id, 'started', unit, epoch, '', '') end
  if is_first then
    redis.call('HSET', key, 'state', 'in_progress', 'started_at', written(now))
    redis.call('EXPIRE', events_key(id), redis.call('TTL', key))
  end
  return epoch
end

-- Learns from a run that has just ended well how long such runs take, and how many there are at a time.
local function learn(id, unit, now)
  local found = redis.call('HMGET', job_key(id), unit .. '.queue', unit .. '.at')
  local queue = found[1]
  local old = redis.call('HMGET', QUEUES, 'service:' .. queue, 'parallel:' .. queue, 'running:' .. queue)
  local function averaged(value, sample)
    if not value then return written(sample) end
    return written(tonumber(value) + PACE_WEIGHT * (sample - tonumber(value)))
  end
  redis.call('HSET', QUEUES, 'service:' .. queue, averaged(old[1], now - tonumber(found[2])),
    'parallel:' .. queue, averaged(old[2], tonumber(old[3])))
end

-- Pictures: a blob lives while a job holds it.

local function outlive(key, seconds)
  if redis.call('TTL', key) < seconds then redis.call('EXPIRE', key, seconds) end
end

local function missing_blobs(blobs)
  local missing = {}
  for sha in string.gmatch(blobs, '%S+') do
    if redis.call('EXISTS', blob_key(sha)) == 0 then missing[#missing + 1] = sha end
  end
  return missing
end

-- What an owner's jobs hold together: per picture how many jobs do, and under 'bytes' the sum of all pictures.
local function pictures_key(owner) return prefix .. 'pictures:' .. owner end
-- An owner's ended jobs that still hold pictures, by when they ended: those go first if there must be room.
local function ended_key(owner) return prefix .. 'ended_pictures:' .. owner end

local function hold_blobs(id, owner, blobs, seconds)
  local key = pictures_key(owner)
  for sha in string.gmatch(blobs, '%S+') do
    if redis.call('EXISTS', blob_key(sha)) == 1 then
      if redis.call('SADD', holders_key(sha), id) == 1 and redis.call('HINCRBY', key, sha, 1) == 1 then
        redis.call('HINCRBY', key, 'bytes', redis.call('STRLEN', blob_key(sha)))
      end
      outlive(holders_key(sha), seconds)
      outlive(blob_key(sha), seconds)
      outlive(key, seconds)
    end
  end
end

local function release_blobs(id)
  local found = redis.call('HMGET', job_key(id), 'blobs', 'owner')
  local key = pictures_key(found[2])
  for sha in string.gmatch(found[1] or '', '%S+') do
    if redis.call('SREM', holders_key(sha), id) == 1 then
      -- Of a job that an earlier release began there is no count.
      if redis.call('HEXISTS', key, sha) == 1 and redis.call('HINCRBY', key, sha, -1) <= 0 then
        redis.call('HDEL', key, sha)
        redis.call('HINCRBY', key, 'bytes', -redis.call('STRLEN', blob_key(sha)))
        if redis.call('HLEN', key) == 1 then redis.call('DEL', key) end
      end
      if redis.call('EXISTS', holders_key(sha)) == 0 then redis.call('DEL', blob_key(sha)) end
    end
  end
  redis.call('HDEL', job_key(id), 'blobs')
  redis.call('ZREM', ended_key(found[2]), id)
end

-- Says whether an owner may hold pictures of these sizes too; lets go of those of ended jobs for it, the oldest first.
local function make_room(owner, blobs, sizes, most)
  local next_size, fresh = string.gmatch(sizes, '%S+'), {}
  for sha in string.gmatch(blobs, '%S+') do
    fresh[sha] = tonumber(next_size() or redis.call('STRLEN', blob_key(sha)))
  end
  while true do
    local total = tonumber(redis.call('HGET', pictures_key(owner), 'bytes') or 0)
    for sha, size in pairs(fresh) do
      if redis.call('HEXISTS', pictures_key(owner), sha) == 0 then total = total + size end
    end
    if total <= most then return true end
    local oldest = redis.call('ZRANGE', ended_key(owner), 0, 0)[1]
    if not oldest then return false end
    local found = redis.call('HMGET', job_key(oldest), 'completed_at', 'ttl')
    if found[1] then
      release_blobs(oldest)
      redis.call('ZADD', AGENDA, tonumber(found[1]) + tonumber(found[2]), oldest)
    else
      redis.call('ZREM', ended_key(owner), oldest)
    end
  end
end

-- Decides when an ended record is looked at next: first its pictures go, then all of it.
local function retain(id, now)
  local found = redis.call('HMGET', job_key(id), 'ttl', 'blobs', 'blob_ttl', 'owner', 'completed_at')
  local ttl = tonumber(found[1])
  if found[2] then
    redis.call('ZADD', ended_key(found[4]), found[5], id)
    outlive(ended_key(found[4]), ttl + NET)
  end
  local first = found[2] and math.min(tonumber(found[3]), ttl) or ttl
  redis.call('ZADD', AGENDA, now + first, id)
  redis.call('EXPIRE', job_key(id), ttl + NET)
  redis.call('EXPIRE', events_key(id), ttl + NET)
end

-- How many unfinished jobs an owner has; the lines of batches are counted apart.
local function count(id, by)
  local found = redis.call('HMGET', job_key(id), 'owner', 'class')
  local name = found[1] .. (found[2] == '3' and '|batch' or '')
  if redis.call('HINCRBY', UNFINISHED, name, by) <= 0 then redis.call('HDEL', UNFINISHED, name) end
end

-- The event that says how a job ended. Its id follows from the job, so that it is the same whoever asks; a job that was
-- begun again has another end, whose event is another too. A direct answer is told only to the URL in its request.
local function announce(id, state, now, is_direct)
  local found = redis.call('HMGET', job_key(id), 'owner', 'webhook_url', 'retries')
  local ended = id .. '|' .. state .. (found[3] and '|' .. found[3] or '')
  local event_id = 'evt_' .. string.sub(redis.sha1hex(ended), 1, 32)
  local kind = 'response.' .. state
  -- The very bytes that every attempt sends and signs; ids and states hold nothing that JSON would escape.
  local body = string.format('{"id":"%s","object":"event","created_at":%d,"type":"%s","data":{"id":"%s"}}',
    event_id, math.floor(now), kind, id)
  if is_direct then
    if (found[2] or '') == '' or found[2] == NOBODY then return false end
    return plan_delivery(found[1], '', found[2], event_id, kind, body, now) > 0
  end
  return fan_out(found[1], found[2] or '', event_id, kind, body, now) > 0
end

-- Gives up whatever of a job still waits or runs.
local function stop_units(id)
  local key, has_running = job_key(id), false
  local units = units_of(id)
  units[#units + 1] = 'merge'
  for _, unit in ipairs(units) do
    if drop(id, unit) then has_running = true end
    local state = redis.call('HGET', key, unit .. '.state')
    if state and not is_terminal(state) then redis.call('HSET', key, unit .. '.state', 'cancelled') end
  end
  -- Whoever still runs a unit of it need not wait for the next write to be refused.
  if has_running then redis.call('PUBLISH', prefix .. 'ended', id) end
end

-- The list that a job stands in: its owner's, or its batch's; '' if it is in none.
local function list_of(id)
  local found = redis.call('HMGET', job_key(id), 'list', 'owner')
  return found[1] or found[2]
end

-- Ends a job. The record lives on for the time it names itself; whom to tell is settled in the same step.
local function finish_job(id, state, now)
  redis.call('HSET', job_key(id), 'state', state, 'completed_at', written(now))
  stop_units(id)
  count(id, -1)
  local has_deliveries = announce(id, state, now)
  event(id, 'end', '', 0, '', state)
  retain(id, now)
  if list_of(id) ~= '' then
    list_job(list_of(id), id, now, tonumber(redis.call('HGET', job_key(id), 'ttl')))
  end
  return has_deliveries
end

-- Forgets a job and all that is only its own.
local function forget(id)
  local state = redis.call('HGET', job_key(id), 'state')
  if not state then return 0 end
  if not is_terminal(state) then
    stop_units(id)
    count(id, -1)
  end
  if list_of(id) ~= '' then redis.call('ZREM', jobs_key(list_of(id)), id) end
  release_blobs(id)
  redis.call('ZREM', AGENDA, id)
  redis.call('DEL', events_key(id))
  return redis.call('DEL', job_key(id))
end

-- Looks at a job again at a time, unless it is to be looked at earlier anyway.
local function look_again(id, at)
  local old = redis.call('ZSCORE', AGENDA, id)
  if not old or at < tonumber(old) then redis.call('ZADD', AGENDA, at, id) end
end

local end_rest

-- Records how a branch ended; whoever ends the last one queues the merge, once. Returns the merge's queue then.
-- Once every branch that is always waited for is completed, the others have only their patience left: what is over by
-- then ends in this very step, with the result given for such branches.
local function finish_branch(id, unit, epoch, state, result, now, not_awaited)
  local key = job_key(id)
  redis.call('HSET', key, unit .. '.state', state, unit .. '.result', result)
  local was_running = drop(id, unit)
  event(id, 'finished', unit, epoch, '', state)
  local is_open, has_answer, has_other = false, true, false
  for _, name in ipairs(units_of(id)) do
    local found = redis.call('HMGET', key, name .. '.state', name .. '.patience')
    if not is_terminal(found[1]) then is_open = true end
    if not found[2] or found[2] == '' then has_answer = has_answer and found[1] == 'completed'
    else has_other = has_other or found[1] == 'completed' end
  end
  if not is_open then
    redis.call('HSETNX', key, 'merge.queue', 'light')  -- of a job that an earlier release began
    -- An engine that has nothing to compose from is not asked: its workers may all be waiting for it.
    if redis.call('HGET', key, 'merge.needs_both') == '1' and not (has_answer and has_other) then
      redis.call('HSET', key, 'merge.queue', 'light')
    end
    return line_up(id, 'merge'), was_running
  end
  if has_answer and redis.call('HSETNX', key, 'answered_at', written(now)) == 1 then
    local queue = end_rest(id, now, {}, not_awaited)
    if not queue then look_again(id, now) end  -- by the reaper, which knows what engines are down
    return queue, was_running
  end
  return nil, was_running
end

-- Says until when a job that has its answer waits for a branch. A run that has said nothing counts from its beginning:
-- whoever is that slow is busy or away. One that is not to begin again in that time is not waited for.
local function awaited_until(id, unit, answered, grace, down)
  local found = redis.call('HMGET', job_key(id), unit .. '.patience', unit .. '.queue', unit .. '.state',
    unit .. '.epoch', unit .. '.piece', unit .. '.at')
  local patience = tonumber(found[1])
  if down[found[2]] then patience = math.min(patience, grace) end
  local till = answered + patience
  if found[3] == 'in_progress' then
    local run = found[4] .. ':'
    local is_quiet = string.sub(found[5] or '', 1, #run) ~= run
    if is_quiet and patience <= grace then till = math.min(till, math.max(answered, tonumber(found[6]) + QUIET)) end
  else
    local at = redis.call('ZSCORE', DELAYED, id .. '|' .. unit)
    if at and tonumber(at) > till then till = answered end
  end
  return till
end

-- Ends the branches of a job that has its answer and whose patience is over, and says when to look again. Where the
-- engine is known to be down, only the grace is left of the patience. Returns the merge's queue if it is due.
end_rest = function(id, now, down, result)
  local key, merge_queue = job_key(id), nil
  local found = redis.call('HMGET', key, 'answered_at', 'grace', 'due_at')
  local answered, grace, next_at = tonumber(found[1]), tonumber(found[2]), tonumber(found[3])
  for _, name in ipairs(units_of(id)) do
    local unit = redis.call('HMGET', key, name .. '.state', name .. '.epoch')
    if not is_terminal(unit[1]) then
      local till = awaited_until(id, name, answered, grace, down)
      if till <= now then
        local queue, was_running = finish_branch(id, name, unit[2] or 0, 'failed', result, now, result)
        merge_queue = queue or merge_queue
        -- Whoever still runs it need not wait for the next write to be refused.
        if was_running then redis.call('PUBLISH', prefix .. 'ended', id) end
      else
        next_at = math.min(next_at, till, now + LOOK)
      end
    end
  end
  redis.call('ZADD', AGENDA, next_at, id)
  return merge_queue
end
"""
)

# seconds that a blob is kept for a job that is still to come, hashes -> the hashes of those that are not there
TOUCH: Final = (
    _PRELUDE
    + """
local missing = {}
for i = 2, #ARGV do
  if redis.call('EXISTS', blob_key(ARGV[i])) == 0 then missing[#missing + 1] = ARGV[i]
  else outlive(blob_key(ARGV[i]), tonumber(ARGV[1])) end
end
return missing
"""
)

# id, clock, spec, owner, class, ttl, blob ttl, webhook URL or '', seconds until the job expires, deadline in ms or '',
# most unfinished jobs of the owner, hashes of the pictures, 1 if all of them must be there, the list it stands in, the
# grace in seconds, queue of its merge, 1 if that is 'light' should an answer be missing, the pictures' sizes or '',
# most bytes in the owner's pictures, then units, their queues and their patience in seconds, '' for those that are
# always waited for
_ACCEPT: Final = (
    _PRELUDE
    + """
local id, now, owner, class, blobs = ARGV[1], clock(ARGV[2]), ARGV[4], ARGV[5], ARGV[12]
local key = job_key(id)

-- Puts a job at its beginning, be it new or failed.
local function accept()
  local expires, ttl = tonumber(ARGV[9]), tonumber(ARGV[6])
  local keep = math.ceil(expires + ttl + NET)
  redis.call('HSET', key, 'state', 'queued', 'owner', owner, 'class', class, 'ttl', ttl, 'accepted_at', written(now))
  if ARGV[8] ~= '' then redis.call('HSET', key, 'webhook_url', ARGV[8]) end
  if blobs ~= '' then
    redis.call('HSET', key, 'blobs', blobs, 'blob_ttl', ARGV[7])
    hold_blobs(id, owner, blobs, keep)
  end
  local due = now + expires
  if ARGV[10] ~= '' then
    local deadline = now + tonumber(ARGV[10]) / 1000
    redis.call('HSET', key, 'deadline_at', written(deadline))
    due = math.min(due, deadline)
  end
  redis.call('HSET', key, 'due_at', written(due), 'grace', ARGV[15])
  redis.call('ZADD', AGENDA, due, id)
  redis.call('ZREM', ended_key(owner), id)
  count(id, 1)
  redis.call('HSET', key, 'merge.queue', ARGV[16], 'merge.needs_both', ARGV[17])
  for i = 20, #ARGV, 3 do
    redis.call('HSET', key, ARGV[i] .. '.queue', ARGV[i + 1], ARGV[i] .. '.patience', ARGV[i + 2])
    line_up(id, ARGV[i])
  end
  redis.call('EXPIRE', key, keep)
  if ARGV[14] ~= owner then redis.call('HSET', key, 'list', ARGV[14]) end
  if ARGV[14] ~= '' then list_job(ARGV[14], id, now, math.ceil(expires + ttl)) end
end
"""
)

# as _ACCEPT -> {1} | {0} (exists) | {-1} (the owner has too many) | {-2, hashes that are missing} | {-3} (the owner's
# pictures have too many bytes)
CREATE: Final = (
    _ACCEPT
    + """
if redis.call('EXISTS', key) == 1 then return {0} end
local counted = redis.call('HGET', UNFINISHED, owner .. (class == '3' and '|batch' or ''))
if tonumber(counted or 0) >= tonumber(ARGV[11]) then return {-1} end
if blobs ~= '' and not make_room(owner, blobs, ARGV[18], tonumber(ARGV[19])) then return {-3} end
local missing = ARGV[13] == '1' and missing_blobs(blobs) or {}
if #missing > 0 then return {-2, unpack(missing)} end
local units = {}
for i = 20, #ARGV, 3 do units[#units + 1] = ARGV[i] end
redis.call('HSET', key, 'spec', ARGV[3], 'units', table.concat(units, ','))
accept()
return {1}
"""
)

# as _ACCEPT, with the seconds of the lease in place of the most unfinished jobs; one unit
# -> {0} (exists) | {-2, hashes that are missing} | {epoch}
BEGIN: Final = (
    _ACCEPT
    + """
if redis.call('EXISTS', key) == 1 then return {0} end
if blobs ~= '' and not make_room(owner, blobs, ARGV[18], tonumber(ARGV[19])) then blobs = '' end
local missing = ARGV[13] == '1' and missing_blobs(blobs) or {}
if #missing > 0 then return {-2, unpack(missing)} end
redis.call('HSET', key, 'spec', ARGV[3], 'units', ARGV[20], 'is_begun', '1')
accept()
drop(id, ARGV[20])
-- Who reads its stream gets all of it from the record at its end: it has no events unless a worker runs it again.
return {start(id, ARGV[20], now, tonumber(ARGV[11]), true)}
"""
)

# as _ACCEPT -> '' (no such job) | the state it was in; only a failed one is begun again
RETRY: Final = (
    _ACCEPT
    + """
local state = redis.call('HGET', key, 'state')
if not state then return '' end
if state ~= 'failed' then return state end
-- The epochs stay: they go on fencing off the writes of runs from before.
redis.call('HDEL', key, 'final', 'error', 'started_at', 'completed_at', 'merge.state', 'merge.result', 'merge.failures',
  'merge.at', 'merge.waits', 'merge.away_at', 'answered_at')
for _, unit in ipairs(units_of(id)) do
  redis.call('HDEL', key, unit .. '.result', unit .. '.failures', unit .. '.waits', unit .. '.away_at')
end
redis.call('DEL', events_key(id))
redis.call('HINCRBY', key, 'retries', 1)
accept()
return state
"""
)

# id, clock, owner, created at, ttl, blob ttl, hashes of the pictures, 1 if all of them must be there, its list or '',
# the pictures' sizes or '', most bytes in the owner's pictures, webhook URL or '', epoch of BEGIN or '',
# then the record's fields, 'units' first -> {0} (begun, and no longer yours) | {1} | {-2, hashes that are missing};
# without room for its pictures they are not held
PUT_FINISHED: Final = (
    _PRELUDE
    + """
local id, now, owner, ttl, blobs = ARGV[1], clock(ARGV[2]), ARGV[3], tonumber(ARGV[5]), ARGV[7]
if blobs ~= '' and not make_room(owner, blobs, ARGV[10], tonumber(ARGV[11])) then blobs = '' end
local missing = ARGV[8] == '1' and missing_blobs(blobs) or {}
if #missing > 0 then return {-2, unpack(missing)} end
if ARGV[13] ~= '' then
  if not owns(id, ARGV[15], ARGV[13]) then return {0} end
  drop(id, ARGV[15])
  count(id, -1)
  redis.call('HDEL', job_key(id), 'accepted_at', 'deadline_at', ARGV[15] .. '.at')
end
redis.call('HSET', job_key(id), 'owner', owner, 'ttl', ttl, unpack(ARGV, 14))
if ARGV[12] ~= '' then
  redis.call('HSET', job_key(id), 'webhook_url', ARGV[12])
  announce(id, redis.call('HGET', job_key(id), 'state'), now, true)
end
if blobs ~= '' then
  redis.call('HSET', job_key(id), 'blobs', blobs, 'blob_ttl', ARGV[6])
  hold_blobs(id, owner, blobs, ttl + NET)
end
retain(id, now)
if ARGV[9] ~= owner then redis.call('HSET', job_key(id), 'list', ARGV[9]) end
if ARGV[9] ~= '' then list_job(ARGV[9], id, tonumber(ARGV[4]), ttl) end
if ARGV[13] ~= '' then redis.call('XADD', ACTIVITY, 'MAXLEN', '~', 4096, '*', 'j', id) end
return {1}
"""
)

# clock, queue, lease seconds -> {id, unit, epoch} | {} (nothing waits)
NEXT: Final = (
    _PRELUDE
    + """
local now, queue, lease = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local turn = tonumber(redis.call('HGET', QUEUES, 'taken:' .. queue) or 0) + 1
local first = turn % (SHARE * SHARE) == 0 and 3 or turn % SHARE == 0 and 2 or 1
for _, class in ipairs({first, 1, 2, 3}) do
  while true do
    local turns = turns_key(queue, class)
    local owner = redis.call('ZRANGE', turns, 0, 0)[1]
    if not owner then break end
    local member = redis.call('ZRANGE', line_key(queue, class, owner), 0, 0)[1]
    take_out(queue, class, owner, member)
    if redis.call('ZSCORE', turns, owner) then
      redis.call('ZADD', turns, redis.call('HINCRBY', QUEUES, 'turn', 1), owner)
    end
    local id, unit = split(member)
    -- A record that redis has forgotten leaves its place behind.
    if redis.call('HGET', job_key(id), unit .. '.state') == 'queued' then
      redis.call('HSET', QUEUES, 'taken:' .. queue, turn)
      return {id, unit, start(id, unit, now, lease)}
    end
  end
end
return {}
"""
)

# id, clock, unit, lease seconds -> epoch | 0 (nothing to do)
CLAIM: Final = (
    _PRELUDE
    + """
local id, now, unit = ARGV[1], clock(ARGV[2]), ARGV[3]
if redis.call('HGET', job_key(id), unit .. '.state') ~= 'queued' then return 0 end
drop(id, unit)
return start(id, unit, now, tonumber(ARGV[4]))
"""
)

# id, clock, unit, epoch, lease seconds -> 1 | 0 (no longer yours)
RENEW: Final = (
    _CORE
    + """
local id, now, unit = ARGV[1], clock(ARGV[2]), ARGV[3]
if not owns(id, unit, ARGV[4]) then return 0 end
redis.call('ZADD', LEASES, now + tonumber(ARGV[5]), id .. '|' .. unit)
return 1
"""
)

# id, unit, epoch, text, log probabilities or '', number of the piece within its run or '' -> 1 | 0 (no longer yours)
APPEND: Final = (
    _CORE
    + """
if not owns(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
if ARGV[6] ~= '' then
  -- Sent again because the answer to the first time was lost: it is there already.
  local key, piece = job_key(ARGV[1]), ARGV[3] .. ':' .. ARGV[6]
  if redis.call('HGET', key, ARGV[2] .. '.piece') == piece then return 1 end
  redis.call('HSET', key, ARGV[2] .. '.piece', piece)
end
event(ARGV[1], 'delta', ARGV[2], ARGV[3], ARGV[4], '', ARGV[5])
return 1
"""
)

# id, clock, unit, epoch, state, result, result of a branch that is no longer waited for
# -> 0 (no longer yours) | 1 | 2 (that was the last branch)
FINISH: Final = (
    _PRELUDE
    + """
local id, now, unit, epoch = ARGV[1], clock(ARGV[2]), ARGV[3], ARGV[4]
if not owns(id, unit, epoch) then return 0 end
if ARGV[5] == 'completed' then learn(id, unit, now) end
if finish_branch(id, unit, epoch, ARGV[5], ARGV[6], now, ARGV[7]) then return 2 end
return 1
"""
)

# id, clock, unit, epoch, why ('failure', 'full', 'away', 'handed back'), seconds until it may run again, doubled each
# time, most seconds, most failures, seconds that an engine may be away
# -> 0 (no longer yours) | 1 | -1 (no runs left; still yours)
RELEASE: Final = (
    _PRELUDE
    + """
local id, now, unit, why, delay = ARGV[1], clock(ARGV[2]), ARGV[3], ARGV[5], tonumber(ARGV[6])
if not owns(id, unit, ARGV[4]) then return 0 end
local key, times = job_key(id), 1
if why == 'failure' then
  times = redis.call('HINCRBY', key, unit .. '.failures', 1)
  if times >= tonumber(ARGV[8]) then return -1 end
elseif why ~= 'handed back' then
  times = redis.call('HINCRBY', key, unit .. '.waits', 1)
end
if why == 'away' then
  redis.call('HSETNX', key, unit .. '.away_at', written(now))
  if now - tonumber(redis.call('HGET', key, unit .. '.away_at')) >= tonumber(ARGV[9]) then return -1 end
elseif why ~= 'handed back' then
  redis.call('HDEL', key, unit .. '.away_at')
end
drop(id, unit)
if delay > 0 then
  redis.call('HSET', key, unit .. '.state', 'queued')
  redis.call('ZADD', DELAYED, now + math.min(delay * 2 ^ math.min(times - 1, 30), tonumber(ARGV[7])), id .. '|' .. unit)
else
  line_up(id, unit)
end
event(id, 'requeued', unit, ARGV[4], '', '')
return 1
"""
)

# queue, most units, most to look at -> how many units that waited for their engine were put in line
WAKE: Final = (
    _PRELUDE
    + """
local num_woken = 0
for _, member in ipairs(redis.call('ZRANGE', DELAYED, 0, tonumber(ARGV[3]) - 1)) do
  local id, unit = split(member)
  local found = redis.call('HMGET', job_key(id), unit .. '.state', unit .. '.queue', unit .. '.away_at')
  if found[1] == 'queued' and found[2] == ARGV[1] and found[3] then
    line_up(id, unit)
    num_woken = num_woken + 1
    if num_woken == tonumber(ARGV[2]) then break end
  end
end
return num_woken
"""
)

# id, clock, merge epoch, job state, final, error -> 0 (no longer yours) | 1 | 2 (and deliveries are due)
COMPLETE: Final = (
    _PRELUDE
    + """
local id, now, key = ARGV[1], clock(ARGV[2]), job_key(ARGV[1])
if not owns(id, 'merge', ARGV[3]) then return 0 end
if ARGV[4] ~= 'failed' then learn(id, 'merge', now) end
redis.call('HSET', key, 'merge.state', ARGV[4] == 'failed' and 'failed' or 'completed')
if ARGV[5] ~= '' then redis.call('HSET', key, 'final', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', key, 'error', ARGV[6]) end
if finish_job(id, ARGV[4], now) then return 2 end
return 1
"""
)

# id, clock, units and their states as they were read, job state, final, error -> 0 (something has changed) | 1
END: Final = (
    _PRELUDE
    + """
local id, now, key = ARGV[1], clock(ARGV[2]), job_key(ARGV[1])
if is_terminal(redis.call('HGET', key, 'state') or 'failed') then return 0 end
local units, states = units_of(id), {}
units[#units + 1] = 'merge'
for _, unit in ipairs(units) do
  local state = redis.call('HGET', key, unit .. '.state')
  if state then states[#states + 1] = unit .. '=' .. state end
end
if table.concat(states, ',') ~= ARGV[3] then return 0 end
if ARGV[5] ~= '' then redis.call('HSET', key, 'final', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', key, 'error', ARGV[6]) end
finish_job(id, ARGV[4], now)
return 1
"""
)

# id, clock, '' or who left it: then only if nobody has come back -> '' (no such job) | the state it has now
CANCEL: Final = (
    _PRELUDE
    + """
local state = redis.call('HGET', job_key(ARGV[1]), 'state')
if not state then return '' end
if is_terminal(state) then return state end
if ARGV[3] ~= '' and redis.call('HGET', job_key(ARGV[1]), 'left') ~= ARGV[3] then return state end
finish_job(ARGV[1], 'cancelled', clock(ARGV[2]))
return 'cancelled'
"""
)

# id, who leaves it or '' -> 0 (no such job) | 1
TELL: Final = (
    _CORE
    + """
if redis.call('EXISTS', job_key(ARGV[1])) == 0 then return 0 end
redis.call('HSET', job_key(ARGV[1]), 'told', '1')
if ARGV[2] ~= '' then redis.call('HSET', job_key(ARGV[1]), 'left', ARGV[2]) end
return 1
"""
)

# id -> 1 | 0
DELETE: Final = _PRELUDE + "return forget(ARGV[1])\n"

# id, clock -> '' (it has ended) | {service seconds of merges or '', then per unfinished branch, or for the merge:
# how many are ahead of it or '', seconds it has run, and its queue's service seconds or '', parallel runs, running now}
PLACE: Final = (
    _PRELUDE
    + """
local id, now, key = ARGV[1], clock(ARGV[2]), job_key(ARGV[1])
local job = redis.call('HMGET', key, 'state', 'class', 'owner')
if is_terminal(job[1] or 'failed') then return '' end
local class, owner = tonumber(job[2]), job[3]

local function depth(queue, of)
  return tonumber(redis.call('HGET', QUEUES, 'depth:' .. queue .. ':' .. of) or 0)
end

local function ahead_of(queue, member)
  local turns = turns_key(queue, class)
  local rank = redis.call('ZRANK', line_key(queue, class, owner), member)
  if not rank then return 0 end
  local mine = redis.call('ZRANK', turns, owner)
  local ahead = mine
  if rank > 0 then
    local others, all = 0, redis.call('ZCARD', turns)
    for place, other in ipairs(redis.call('ZRANGE', turns, 0, MAX_WALK - 1)) do
      if other ~= owner then
        local rounds = rank + (place - 1 < mine and 1 or 0)
        others = others + math.min(rounds, redis.call('ZCARD', line_key(queue, class, other)))
      end
    end
    if all > MAX_WALK then others = math.floor(others * all / MAX_WALK) end
    ahead = rank + others
  end
  local higher = 0
  for of = 1, class - 1 do higher = higher + depth(queue, of) end
  return ahead + math.min(higher, (SHARE ^ (class - 1) - 1) * (ahead + 1))
end

local merge_queue = redis.call('HGET', key, 'merge.queue') or 'light'
local out = {redis.call('HGET', QUEUES, 'service:' .. merge_queue) or ''}
local function look(unit)
  local found = redis.call('HMGET', key, unit .. '.state', unit .. '.queue', unit .. '.at')
  if not found[1] or is_terminal(found[1]) then return end
  local queue = found[2]
  local pace = redis.call('HMGET', QUEUES, 'service:' .. queue, 'parallel:' .. queue, 'running:' .. queue)
  local is_queued = found[1] == 'queued'
  out[#out + 1] = is_queued and tostring(ahead_of(queue, id .. '|' .. unit)) or ''
  out[#out + 1] = is_queued and '0' or written(now - tonumber(found[3]))
  for i = 1, 3 do out[#out + 1] = pace[i] or '' end
end
for _, unit in ipairs(units_of(id)) do look(unit) end
if #out == 1 then look('merge') end
return out
"""
)

# clock, most failures, batch, result of a branch given up, job error of a merge given up, result of a branch that is no
# longer waited for, queues whose engine is down
# -> {{queue, units put in line, ...}, {id, 'deadline' | 'expired', ...}}
REAP: Final = (
    _PRELUDE
    + """
local now, most, batch = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local lined_up, overdue, down = {}, {}, {}
for queue in string.gmatch(ARGV[7], '[^,]+') do down[queue] = true end

local function due(set) return redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, batch) end

local function tell(queue) lined_up[queue] = (lined_up[queue] or 0) + 1 end

for _, member in ipairs(due(LEASES)) do
  local id, unit = split(member)
  local key = job_key(id)
  if redis.call('HGET', key, unit .. '.state') ~= 'in_progress' then
    redis.call('ZREM', LEASES, member)
  else
    local epoch = redis.call('HGET', key, unit .. '.epoch')
    end_lease(id, unit)
    if redis.call('HINCRBY', key, unit .. '.failures', 1) < most then
      tell(line_up(id, unit))
      event(id, 'requeued', unit, epoch, '', '')
    elseif unit == 'merge' then
      redis.call('HSET', key, 'error', ARGV[5], 'merge.state', 'failed')
      finish_job(id, 'failed', now)
    else
      local queue = finish_branch(id, unit, epoch, 'failed', ARGV[4], now, ARGV[6])
      if queue then tell(queue) end
    end
  end
end

for _, member in ipairs(due(DELAYED)) do
  local id, unit = split(member)
  if redis.call('HGET', job_key(id), unit .. '.state') == 'queued' then tell(line_up(id, unit))
  else redis.call('ZREM', DELAYED, member) end
end

for _, id in ipairs(due(AGENDA)) do
  local found = redis.call('HMGET', job_key(id), 'state', 'deadline_at', 'blobs', 'completed_at', 'ttl', 'answered_at',
    'due_at')
  if not found[1] then
    redis.call('ZREM', AGENDA, id)
  elseif not is_terminal(found[1]) and found[6] and tonumber(found[7]) > now then
    local queue = end_rest(id, now, down, ARGV[6])
    if queue then tell(queue) end
  elseif not is_terminal(found[1]) then
    -- Offered again until it has ended, behind whatever else is due.
    redis.call('ZADD', AGENDA, now + 1, id)
    overdue[#overdue + 1] = id
    overdue[#overdue + 1] = found[2] and tonumber(found[2]) <= now and 'deadline' or 'expired'
  elseif found[3] and tonumber(found[4]) + tonumber(found[5]) > now then
    release_blobs(id)
    redis.call('ZADD', AGENDA, tonumber(found[4]) + tonumber(found[5]), id)
  else
    forget(id)
  end
end

local tickets = {}
for queue, number in pairs(lined_up) do
  tickets[#tickets + 1] = queue
  tickets[#tickets + 1] = number
end
return {tickets, overdue}
"""
)

# list, id after which to go on or '', state or '', limit, most to look at
# -> {} (no such id) | {1 if there is more, last id looked at, id, id, ...}, newest first
LIST: Final = (
    _PRELUDE
    + """
local key, wanted, limit, most = jobs_key(ARGV[1]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local start = 0
if ARGV[2] ~= '' then
  start = redis.call('ZREVRANK', key, ARGV[2])
  if not start then return {} end
  start = start + 1
end
local found, dead, last, num_seen = {}, {}, ARGV[2], 0
local has_more = 0
while has_more == 0 do
  local ids = redis.call('ZREVRANGE', key, start, start + 99)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local state = redis.call('HGET', job_key(id), 'state')
    if not state then
      dead[#dead + 1] = id
    elseif #found == limit or num_seen == most then
      has_more = 1
      break
    else
      num_seen, last = num_seen + 1, id
      if wanted == '' or wanted == state then found[#found + 1] = id end
    end
  end
  start = start + #ids
end
for _, id in ipairs(dead) do redis.call('ZREM', key, id) end
local reply = {has_more, last}
for _, id in ipairs(found) do reply[#reply + 1] = id end
return reply
"""
)
