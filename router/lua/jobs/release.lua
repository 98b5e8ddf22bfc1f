-- Gives a unit back, to be run again after a while.
-- In: why: 'failure', 'full', 'away' or 'handed back'. delay_s: doubled each time, up to max_delay_s.
-- Out: 'not yours' | 'queued' | 'given up' (no retries are left; it is still yours).
--@include queues
--@include counted
local id, now, unit, epoch, why, delay_s, max_delay_s, max_attempts, engine_patience_s = unpack(ARGV)
now = clock(now)
local delay = tonumber(delay_s)
if not owns(id, unit, epoch) then return 'not yours' end
local key, times = job_key(id), 1
if why == 'failure' then
  times = redis.call('HINCRBY', key, unit .. '.failures', 1)
  if times >= tonumber(max_attempts) then return 'given up' end
elseif why ~= 'handed back' then
  times = redis.call('HINCRBY', key, unit .. '.waits', 1)
end
if why == 'away' then
  redis.call('HSETNX', key, unit .. '.away_at', stamp(now))
  local away_s = now - tonumber(redis.call('HGET', key, unit .. '.away_at'))
  if away_s >= tonumber(engine_patience_s) then return 'given up' end
elseif why ~= 'handed back' then
  redis.call('HDEL', key, unit .. '.away_at')
end
drop(id, unit)
if delay > 0 then
  redis.call('HSET', key, unit .. '.state', 'queued')
  local wait = math.min(delay * 2 ^ math.min(times - 1, 30), tonumber(max_delay_s))
  redis.call('ZADD', DELAYED, now + wait, id .. '|' .. unit)
else
  line_up(id, unit)
end
tally('retry:' .. redis.call('HGET', key, unit .. '.queue') .. ':' .. why)
event(id, 'requeued', unit, epoch, '', '')
return 'queued'
