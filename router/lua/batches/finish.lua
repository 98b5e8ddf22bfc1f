-- Ends a batch.
-- Out: 1 | 0 (not yours, or lines are in flight).
--@include batches
local now, id, epoch = unpack(ARGV)
now = clock(now)
if not owns(id, epoch) or redis.call('HLEN', lines_key(id)) > 0 then return 0 end
finish(id, redis.call('HGET', batch_key(id), 'ending') or 'completed', now)
return 1
