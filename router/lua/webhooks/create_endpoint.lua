-- Registers an endpoint.
-- In: event_types: with commas. Out: its fields and values; 0: the owner has max_endpoints.
--@include deliveries
local now, id, owner, name, url, event_types, secret, max_endpoints = unpack(ARGV)
now = clock(now)
if redis.call('ZCARD', endpoints_key(owner)) >= tonumber(max_endpoints) then return 0 end
redis.call('HSET', endpoint_key(id), 'owner', owner, 'name', name, 'url', url, 'event_types', event_types,
  'secret', secret, 'old_secret', '', 'old_secret_until', 0, 'status', 'enabled',
  'created_at', stamp(now), 'updated_at', stamp(now))
-- All with the same score: ids sort by age, and a list can go on after an id that is gone.
redis.call('ZADD', endpoints_key(owner), 0, id)
return redis.call('HGETALL', endpoint_key(id))
