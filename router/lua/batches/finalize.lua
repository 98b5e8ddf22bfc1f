-- Notes that every line has ended.
-- Out: 'ok' | 'not yours' | 'closing' (it is to be closed early instead).
--@include batches
local now, id, epoch = unpack(ARGV)
now = clock(now)
if not owns(id, epoch) then return 'not yours' end
if redis.call('HGET', batch_key(id), 'ending') then return 'closing' end
if redis.call('HGET', batch_key(id), 'status') == 'in_progress' then set_status(id, 'finalizing', now) end
return 'ok'
