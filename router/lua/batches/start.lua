-- Begins with the lines of a batch.
-- Out: 1 | 0 (not yours, or not to be begun any more).
--@include batches
local now, id, epoch, total = unpack(ARGV)
now = clock(now)
if not owns(id, epoch) or redis.call('HGET', batch_key(id), 'status') ~= 'validating' then return 0 end
redis.call('HSET', batch_key(id), 'total', total)
set_status(id, 'in_progress', now)
return 1
