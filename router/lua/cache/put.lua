-- Keeps an answer. Those that were not used for the longest time go for it, first of the owner who has the most.
-- In: question, sent: '' without pictures. Out: 1 | 0 (too large).
--@include cache
local owner, name, question, sent, answer, ttl_s, max_bytes, now = unpack(ARGV)
now = clock(now)
local most, size = tonumber(max_bytes), #answer + CACHE_ENTRY_BYTES
if size * CACHE_PART > most then return 0 end
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, MAX_TAKEN)) do
  local whose, which = string.match(ended, '^(.-)|(.*)$')
  if drop_answer(whose, which) == 0 then redis.call('ZREM', ENDS, ended) end
end
drop_answer(owner, name)
redis.call('SET', answer_key(owner, name), answer, 'EX', ttl_s)
if sent ~= '' then
  redis.call('HSET', question_key(owner, question), sent, name)
  redis.call('EXPIRE', question_key(owner, question), ttl_s)
end
redis.call('HSET', sizes_key(owner), name, size .. ':' .. question .. ':' .. sent)
redis.call('ZADD', order_key(owner), now, name)
redis.call('ZADD', ENDS, now + tonumber(ttl_s), owner .. '|' .. name)
redis.call('ZINCRBY', USED, size, owner)
local total = redis.call('INCRBY', TOTAL, size)
while total > most do
  local heaviest = redis.call('ZREVRANGE', USED, 0, 0)[1]
  local oldest = heaviest and redis.call('ZRANGE', order_key(heaviest), 0, 0)[1]
  if not oldest or drop_answer(heaviest, oldest) == 0 then break end
  total = tonumber(redis.call('GET', TOTAL))
end
return 1
