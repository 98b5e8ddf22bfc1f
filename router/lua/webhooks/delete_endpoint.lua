-- Forgets an endpoint.
-- Out: 1 | 0 (no such endpoint of the owner).
--@include deliveries
local id, owner = unpack(ARGV)
if redis.call('HGET', endpoint_key(id), 'owner') ~= owner then return 0 end
-- What waits for a retry, perhaps for hours, is given up now. Of a longer log the rest is, when its turn comes.
for _, delivery in ipairs(redis.call('ZREVRANGE', log_key(id), 0, MAX_TAKEN - 1)) do
  if redis.call('HGET', delivery_key(delivery), 'state') == 'pending' then
    finish_delivery(delivery, 'failed', 'endpoint_deleted')
  end
end
redis.call('DEL', endpoint_key(id), log_key(id))
redis.call('ZREM', endpoints_key(owner), id)
return 1
