-- Forgets an endpoint.
-- Out: 1 | 0 (no such endpoint of the owner).
--@include deliveries
local id, owner = unpack(ARGV)
if redis.call('HGET', endpoint_key(id), 'owner') ~= owner then return 0 end
redis.call('DEL', endpoint_key(id), log_key(id))
redis.call('ZREM', endpoints_key(owner), id)
return 1
