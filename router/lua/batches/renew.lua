-- Renews the lease of a batch; with lease_s 0 gives it back.
-- Out: '' (not yours) | {status, 'cancelled' | 'expired' | nothing}.
--@include batches
local now, id, epoch, lease_s = unpack(ARGV)
now = clock(now)
if not owns(id, epoch) then return '' end
redis.call('ZADD', DUE, now + tonumber(lease_s), id)
local found = redis.call('HMGET', batch_key(id), 'status', 'expires_at', 'ending')
if now >= tonumber(found[2]) and (found[1] == 'validating' or found[1] == 'in_progress') then
  close_early(id, 'expired', 'finalizing', now)
end
return redis.call('HMGET', batch_key(id), 'status', 'ending')
