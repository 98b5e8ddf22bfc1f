-- How a job ends, and how it is forgotten.
--@include queues
--@include blobs
--@include flights
--@include listing
--@include fan_out
--@include limits
--@include counted
local UNFINISHED = prefix .. 'unfinished'

-- How many unfinished jobs an owner has; the lines of batches are counted apart.
local function count(id, by)
  local found = redis.call('HMGET', job_key(id), 'owner', 'class')
  local name = found[1] .. (found[2] == '3' and '|batch' or '')
  if redis.call('HINCRBY', UNFINISHED, name, by) <= 0 then redis.call('HDEL', UNFINISHED, name) end
end

-- The event that says how a job ended. Its id follows from the job, so that it is the same whoever asks; a job that was
-- begun again has another end, whose event is another too. A direct answer is told only to the URL in its request.
local function announce(id, state, now, is_direct)
  local found = redis.call('HMGET', job_key(id), 'owner', 'webhook_url', 'retries', 'origin')
  local ended = id .. '|' .. state .. (found[3] and '|' .. found[3] or '')
  local event_id = 'evt_' .. string.sub(redis.sha1hex(ended), 1, 32)
  local kind = 'response.' .. state
  -- The very bytes that every attempt sends and signs; ids and states hold nothing that JSON would escape.
  local body = string.format('{"id":"%s","object":"event","created_at":%d,"type":"%s","data":{"id":"%s"}}',
    event_id, math.floor(now), kind, id)
  if is_direct then
    if (found[2] or '') == '' or found[2] == NOBODY then return false end
    return plan_delivery(found[1], '', found[2], event_id, kind, body, now, found[4]) > 0
  end
  return fan_out(found[1], found[2] or '', event_id, kind, body, now, found[4]) > 0
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

-- What the units of a job that have ended used, in tokens.
local function used_tokens(id)
  local sum, names = 0, units_of(id)
  for _, name in ipairs(names) do
    local result = redis.call('HGET', job_key(id), name .. '.result')
    local usage = result and cjson.decode(result).usage or {}
    sum = sum + (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
  end
  return sum
end

-- Charges a job for what it used instead of what was reserved for it. How much a unit that is cut has used is not known:
-- then the reservation stays.
local function settle_job(id, used, now)
  local reservation = redis.call('HGET', job_key(id), 'reservation')
  if not reservation then return end
  local names = units_of(id)
  names[#names + 1] = 'merge'
  for _, name in ipairs(names) do
    if redis.call('HGET', job_key(id), name .. '.state') == 'in_progress' then return end
  end
  settle(reservation, used or used_tokens(id), micros(now))
end

-- Ends of jobs that are to be kept for data sets, until an api has taken them.
local CAPTURED = prefix .. 'loop:ended'
local function capture_end(id)
  if redis.call('HEXISTS', job_key(id), 'is_captured') == 0 then return end
  if redis.call('RPUSH', CAPTURED, id) > MAX_UNCAPTURED then redis.call('LPOP', CAPTURED) end
end

-- Ends a job. The record lives on for the time it names itself; whom to tell, and what it is charged, is settled in the
-- same step.
-- In: used: tokens, nil for what its units used. is_shared: those who wait for it get the same end; else one of them
-- runs in its place. measured: of `count_end`.
local finish_followers
local function finish_job(id, state, now, used, is_shared, measured)
  redis.call('HSET', job_key(id), 'state', state, 'completed_at', stamp(now))
  count_end(job_key(id), state, measured)
  capture_end(id)
  settle_job(id, used, now)
  stop_units(id)
  count(id, -1)
  local has_deliveries = announce(id, state, now)
  -- The stream of one that waited is its leader's.
  if leave_flight(id) then tell_readers(id, 'end') else event(id, 'end', '', 0, '', state) end
  retain(id, now)
  if list_of(id) ~= '' then
    list_job(list_of(id), id, now, tonumber(redis.call('HGET', job_key(id), 'ttl')))
  end
  if not is_shared then
    replace_leader(id, now)
  elseif finish_followers(id, state, now, measured) then
    has_deliveries = true
  end
  return has_deliveries
end

-- Ends those who wait for a job as it ended. They used none of the engines' time, and are charged no tokens.
finish_followers = function(id, state, now, measured)
  local followers = take_followers(id)
  if #followers == 0 then return false end
  local names, copied, units = {'final', 'error', 'started_at'}, {}, units_of(id)
  units[#units + 1] = 'merge'
  for _, unit in ipairs(units) do
    for _, field in ipairs({'state', 'epoch', 'result', 'at', 'failures'}) do names[#names + 1] = unit .. '.' .. field end
  end
  for i, value in ipairs(redis.call('HMGET', job_key(id), unpack(names))) do
    if value then
      copied[#copied + 1] = names[i]
      copied[#copied + 1] = value
    end
  end
  local has_deliveries = false
  for _, follower in ipairs(followers) do
    redis.call('HSET', job_key(follower), unpack(copied))
    if finish_job(follower, state, now, 0, false, measured) then has_deliveries = true end
  end
  return has_deliveries
end

-- Forgets a job and all that is only its own.
local function forget(id, now)
  local state = redis.call('HGET', job_key(id), 'state')
  if not state then return 0 end
  if not is_terminal(state) then
    stop_units(id)
    count(id, -1)
    leave_flight(id)
    replace_leader(id, now)
  end
  if list_of(id) ~= '' then redis.call('ZREM', jobs_key(list_of(id)), id) end
  release_blobs(id)
  redis.call('ZREM', AGENDA, id)
  redis.call('DEL', events_key(id))
  return redis.call('DEL', job_key(id))
end
