-- Notes that the request of a key was accepted, or lets go of the key.
-- In: is_forced: 1 to let go even of what was recorded. Out: 1 | 0 (not yours).
--@include clock
local now, key, token, is_forced = unpack(ARGV)
now = clock(now)
local found = redis.call('HMGET', key, 'token', 'id')
if found[1] ~= token then return 0 end
local of = redis.call('HMGET', prefix .. 'job:' .. found[2], 'state', 'is_begun')
if is_forced == '0' and of[1] and not (of[2] and of[1] == 'in_progress') then
  redis.call('HSET', key, 'accepted', '1')
else
  redis.call('DEL', key)
end
return 1
