-- Heals what was lost, ends what nobody need wait for, forgets what is over its time.
-- In: lost_branch, lost_merge, not_awaited: JSON of how these end. down_queues: of engines that are down, with commas.
-- Out: {{queue, units queued, ...}, {id, 'deadline' | 'expired', ...}}.
--@include branches
local now, max_attempts, max_reaped, lost_branch, lost_merge, not_awaited, down_queues = unpack(ARGV)
now = clock(now)
local most, batch = tonumber(max_attempts), tonumber(max_reaped)
local lined_up, overdue, down = {}, {}, {}
for queue in string.gmatch(down_queues, '[^,]+') do down[queue] = true end

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
    tally('lease_lost:' .. redis.call('HGET', key, unit .. '.queue'))
    if redis.call('HINCRBY', key, unit .. '.failures', 1) < most then
      tell(line_up(id, unit))
      event(id, 'requeued', unit, epoch, '', '')
    elseif unit == 'merge' then
      redis.call('HSET', key, 'error', lost_merge, 'merge.state', 'failed')
      finish_job(id, 'failed', now)
    else
      local queue = finish_branch(id, unit, epoch, 'failed', lost_branch, now, not_awaited)
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
    local queue = end_rest(id, now, down, not_awaited)
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
    forget(id, now)
  end
end

local tickets = {}
for queue, number in pairs(lined_up) do
  tickets[#tickets + 1] = queue
  tickets[#tickets + 1] = number
end
return {tickets, overdue}
