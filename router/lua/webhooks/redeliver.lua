-- Sends a delivery again from the start.
-- Out: 'unknown' (no such delivery of the owner) | 'disabled' (its endpoint is, or gone) | 'pending'.
--@include deliveries
local now, id, owner = unpack(ARGV)
now = clock(now)
local key = delivery_key(id)
local found = redis.call('HMGET', key, 'owner', 'state', 'endpoint')
if found[1] ~= owner then return 'unknown' end
if found[3] ~= '' and redis.call('HGET', endpoint_key(found[3]), 'status') ~= 'enabled' then return 'disabled' end
if found[2] == 'in_progress' then return 'pending' end
redis.call('HSET', key, 'state', 'pending', 'failure', '', 'failures', 0, 'next_at', stamp(now),
  'expires_at', stamp(now + MAX_AGE_S))
redis.call('PERSIST', key)
redis.call('PERSIST', attempts_key(id))
redis.call('ZADD', DELIVERIES, now, id)
return 'pending'
