-- The queues: per queue and class the owners by turn, per owner its units by age; leases; and how long runs take.
--@include jobs
local function turns_key(queue, class) return prefix .. 'turns:' .. queue .. ':' .. class end
local function line_key(queue, class, owner) return prefix .. 'line:' .. queue .. ':' .. class .. ':' .. owner end
-- When an owner had its last turn, while more of its units wait.
local function turned_key(queue, class) return prefix .. 'turned:' .. queue .. ':' .. class end
local DELAYED, QUEUES = prefix .. 'delayed', prefix .. 'queues'

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

local function take_out(queue, class, owner, member)
  local line = line_key(queue, class, owner)
  if redis.call('ZREM', line, member) == 0 then return false end
  redis.call('HINCRBY', QUEUES, 'depth:' .. queue .. ':' .. class, -1)
  if redis.call('EXISTS', line) == 0 then
    redis.call('ZREM', turns_key(queue, class), owner)
    redis.call('HDEL', turned_key(queue, class), owner)
  end
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
  redis.call('HSET', key, unit .. '.state', 'in_progress', unit .. '.at', stamp(now))
  redis.call('ZADD', LEASES, now + lease, id .. '|' .. unit)
  redis.call('HINCRBY', QUEUES, 'running:' .. redis.call('HGET', key, unit .. '.queue'), 1)
  local is_first = redis.call('HGET', key, 'state') == 'queued'
  if not is_untold then event(id, 'started', unit, epoch, '', '') end
  if is_first then
    redis.call('HSET', key, 'state', 'in_progress', 'started_at', stamp(now))
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
    if not value then return stamp(sample) end
    return stamp(tonumber(value) + PACE_WEIGHT * (sample - tonumber(value)))
  end
  redis.call('HSET', QUEUES, 'service:' .. queue, averaged(old[1], now - tonumber(found[2])),
    'parallel:' .. queue, averaged(old[2], tonumber(old[3])), 'learned:' .. queue, stamp(now))
end
