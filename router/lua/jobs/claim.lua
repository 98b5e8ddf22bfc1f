-- Takes a queued unit out of turn.
-- Out: epoch | 0 (nothing to do).
--@include queues
local id, now, unit, lease_s = unpack(ARGV)
now = clock(now)
if redis.call('HGET', job_key(id), unit .. '.state') ~= 'queued' then return 0 end
drop(id, unit)
return start(id, unit, now, tonumber(lease_s))
