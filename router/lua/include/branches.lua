-- How the branches of a job end, and when those that need not be waited for do.
--@include job_end
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
  if has_answer and redis.call('HSETNX', key, 'answered_at', stamp(now)) == 1 then
    local queue = end_rest(id, now, {}, not_awaited)
    if not queue then look_again(id, now) end  -- by the reaper, which knows what engines are down
    return queue, was_running
  end
  return nil, was_running
end

-- Says until when a job that has its answer waits for a branch. A run that has said nothing has half, from its beginning:
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
    if is_quiet and patience <= grace then till = math.min(till, math.max(answered, tonumber(found[6]) + grace / 2)) end
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
        next_at = math.min(next_at, till, now + LOOK_S)
      end
    end
  end
  redis.call('ZADD', AGENDA, next_at, id)
  return merge_queue
end
