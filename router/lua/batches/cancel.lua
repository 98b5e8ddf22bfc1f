-- Cancels a batch.
-- Out: 1 | 0 (no such batch of the owner).
--@include batches
local now, id, owner = unpack(ARGV)
now = clock(now)
local found = redis.call('HMGET', batch_key(id), 'owner', 'status')
if found[1] ~= owner then return 0 end
if found[2] == 'validating' or found[2] == 'in_progress' then close_early(id, 'cancelled', 'cancelling', now) end
return 1
