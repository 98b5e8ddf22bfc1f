-- Begins a failed job again.
-- Out: '' (no such job) | 'too many jobs' | the state it was in; only a failed one is begun again.
--@include accept
local state = redis.call('HGET', key, 'state')
if not state then return '' end
if state ~= 'failed' then return state end
if is_one_too_many() then return 'too many jobs' end
-- The epochs stay: they go on fencing off the writes of runs from before.
redis.call('HDEL', key, 'final', 'error', 'started_at', 'completed_at', 'merge.state', 'merge.result', 'merge.failures',
  'merge.at', 'merge.waits', 'merge.away_at', 'answered_at', 'follows', 'flight', 'reservation')
for _, unit in ipairs(units_of(id)) do
  redis.call('HDEL', key, unit .. '.result', unit .. '.failures', unit .. '.waits', unit .. '.away_at')
end
redis.call('DEL', events_key(id))
redis.call('HINCRBY', key, 'retries', 1)
accept()
return state
