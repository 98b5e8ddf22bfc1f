-- Takes up batches that are due.
-- Out: {id, epoch, id, epoch ...}.
--@include batches
local now, lease_s, max_claimed = unpack(ARGV)
now = clock(now)
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, tonumber(max_claimed))) do
  if redis.call('EXISTS', batch_key(id)) == 1 then
    redis.call('ZADD', DUE, now + tonumber(lease_s), id)
    claimed[#claimed + 1] = id
    claimed[#claimed + 1] = redis.call('HINCRBY', batch_key(id), 'epoch', 1)
  else
    redis.call('ZREM', DUE, id)
  end
end
return claimed
