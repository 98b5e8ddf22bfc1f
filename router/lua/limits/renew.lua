-- Says of open requests that their process is alive.
-- In: lease_s: until they are taken for dead. Then, per place: subject and id. Out: 1.
--@include limits
local now, lease_s = unpack(ARGV)
local till, left_ms = clock(now) + tonumber(lease_s), math.ceil(tonumber(lease_s) * 1000) + 1000
for i = 3, #ARGV, 2 do
  redis.call('ZADD', open_key(ARGV[i]), 'XX', till, ARGV[i + 1])
  redis.call('PEXPIRE', open_key(ARGV[i]), left_ms)
end
return 1
