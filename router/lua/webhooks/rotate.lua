-- Replaces a secret.
-- In: name: the key without prefix. overlap_s: for which the old secret signs too. Out: 1 | 0 (not the owner's).
--@include deliveries
local now, name, owner, secret, overlap_s = unpack(ARGV)
now = clock(now)
local key, overlap = prefix .. name, tonumber(overlap_s)
if redis.call('HGET', key, 'owner') ~= owner then return 0 end
redis.call('HSET', key, 'old_secret', overlap > 0 and redis.call('HGET', key, 'secret') or '',
  'old_secret_until', stamp(now + overlap), 'secret', secret, 'updated_at', stamp(now))
return 1
