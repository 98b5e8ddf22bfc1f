-- Takes a key, or says who has it.
-- In: digest: of the body. response_id, token: new ones.
-- Out: {'new' | 'known' | 'busy' | 'other' | 'gone', response id}.
--@include clock
local now, key, digest, response_id, token, hold_s, keep_s = unpack(ARGV)
now = clock(now)
local found = redis.call('HMGET', key, 'body', 'id', 'until', 'accepted')
local id = found[2]
local is_accepted = found[4]
if id and not is_accepted then
  -- A direct answer that failed or broke off is made again, also if its maker could not let go of the key. Only what
  -- went through the queue has a time at which it was accepted.
  -- One that is being written leads nowhere while its maker lives: it may still fail, and be no record at all.
  local of = redis.call('HMGET', prefix .. 'job:' .. id, 'state', 'accepted_at', 'is_begun')
  is_accepted = of[1] and (of[2] or of[1] == 'completed' or of[1] == 'incomplete')
  if of[3] and of[1] == 'in_progress' and tonumber(found[3]) > now then is_accepted = false end
end
if id and (is_accepted or tonumber(found[3]) > now) then
  if found[1] ~= digest then return {'other', id} end
  if not is_accepted then return {'busy', id} end
  redis.call('HSET', key, 'accepted', '1')
  return {redis.call('EXISTS', prefix .. 'job:' .. id) == 1 and 'known' or 'gone', id}
end
redis.call('DEL', key)
redis.call('HSET', key, 'body', digest, 'id', response_id, 'token', token,
  'until', stamp(now + tonumber(hold_s)))
redis.call('EXPIRE', key, keep_s)
return {'new', response_id}
