-- Kept answers. `cache:answer:OWNER|NAME` string; `cache:question:OWNER|QUESTION` hash of the pictures' files to the
-- name of the answer about them; `cache:order:OWNER` sorted set of names by last use, `cache:sizes:OWNER` hash of
-- `BYTES:QUESTION:SENT`; `cache:used` sorted set of owners by bytes, `cache:bytes` their sum; `cache:ends` sorted set of
-- `OWNER|NAME` by when it expires.
--@include clock
local ENDS, USED, TOTAL = prefix .. 'cache:ends', prefix .. 'cache:used', prefix .. 'cache:bytes'
local function answer_key(owner, name) return prefix .. 'cache:answer:' .. owner .. '|' .. name end
local function question_key(owner, question) return prefix .. 'cache:question:' .. owner .. '|' .. question end
local function order_key(owner) return prefix .. 'cache:order:' .. owner end
local function sizes_key(owner) return prefix .. 'cache:sizes:' .. owner end

local function drop_answer(owner, name)
  local found = redis.call('HGET', sizes_key(owner), name)
  if not found then return 0 end
  local size, question, sent = string.match(found, '^(%d+):(%x*):(%x*)$')
  redis.call('DEL', answer_key(owner, name))
  redis.call('HDEL', sizes_key(owner), name)
  redis.call('ZREM', order_key(owner), name)
  redis.call('ZREM', ENDS, owner .. '|' .. name)
  if sent ~= '' then redis.call('HDEL', question_key(owner, question), sent) end
  redis.call('DECRBY', TOTAL, size)
  if tonumber(redis.call('ZINCRBY', USED, -tonumber(size), owner)) <= 0 then redis.call('ZREM', USED, owner) end
  return 1
end
