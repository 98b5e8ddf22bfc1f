-- Says whether any delivery waits for an attempt now.
-- Out: 1 | 0.
--@include delivery_queue
local now = unpack(ARGV)
if redis.call('EXISTS', TURNS) == 1 then return 1 end
return redis.call('ZCOUNT', DELIVERIES, '-inf', clock(now)) > 0 and 1 or 0
