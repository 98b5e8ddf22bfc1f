-- Holds a key for longer.
-- Out: 1 | 0 (not yours).
--@include clock
local now, key, token, hold_s = unpack(ARGV)
now = clock(now)
if redis.call('HGET', key, 'token') ~= token then return 0 end
redis.call('HSET', key, 'until', stamp(now + tonumber(hold_s)))
return 1
