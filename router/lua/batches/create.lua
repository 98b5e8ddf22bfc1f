-- Accepts a batch.
-- In: output_ttl_s: of its files. ttl_s: of its record. webhook_url: '' for none. Out: its fields and values; 0: max_open are under way.
--@include batches
local now, id, owner, spec, window_s, output_id, error_id, output_ttl_s, ttl_s, webhook_url, max_open = unpack(ARGV)
now = clock(now)
if redis.call('SCARD', open_key(owner)) >= tonumber(max_open) then return 0 end
redis.call('HSET', batch_key(id), 'owner', owner, 'spec', spec, 'status', 'validating', 'epoch', 0,
  'created_at', stamp(now), 'expires_at', stamp(now + tonumber(window_s)), 'output_id', output_id, 'error_id', error_id,
  'output_ttl', output_ttl_s, 'ttl', ttl_s, 'webhook_url', webhook_url, 'total', 0, 'completed', 0, 'failed', 0,
  'line', 0, 'offset', 0)
redis.call('ZADD', batches_key(owner), 0, id)
redis.call('SADD', open_key(owner), id)
redis.call('ZADD', DUE, now, id)
return redis.call('HGETALL', batch_key(id))
