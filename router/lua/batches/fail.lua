-- Ends a batch that cannot be run.
-- In: errors: JSON. Out: 1 | 0 (not yours).
--@include batches
local now, id, epoch, errors = unpack(ARGV)
now = clock(now)
if not owns(id, epoch) then return 0 end
redis.call('HSET', batch_key(id), 'errors', errors)
finish(id, 'failed', now)
return 1
