-- Changes an endpoint.
-- In: then its fields: name, value. Out: 1 | 0 (no such endpoint of the owner).
--@include deliveries
local now, id, owner = unpack(ARGV)
now = clock(now)
local key = endpoint_key(id)
if redis.call('HGET', key, 'owner') ~= owner then return 0 end
for i = 4, #ARGV, 2 do
  if redis.call('HGET', key, ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', key, ARGV[i], ARGV[i + 1], 'updated_at', stamp(now))
  end
end
return 1
