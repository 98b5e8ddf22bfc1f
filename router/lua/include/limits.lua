-- What subjects (an owner, a key, an address) were charged. `meter:SUBJECT` is a hash: per kind what is owed, and 'at',
-- when that was so. What is owed shrinks at the limit, and a charge is refused if it would be more than a whole minute's:
-- the generic cell rate algorithm in its form of a leaky bucket. One unit of a charge owes MINUTE_US; per microsecond as
-- much as the limit goes. So all numbers are whole, and what is owed stays right when a limit is changed.
-- `open:SUBJECT` is a sorted set of requests by when they are taken for dead. `ledger:OWNER:MINUTE` is a hash of what was
-- charged for each request: state, then requests, pictures, kilopixels, tokens, when, and per subject whose tokens are
-- limited: name, limit, and what was owed with this request as the last one.
--@include clock
local KINDS = {'requests', 'pictures', 'kilopixels', 'tokens'}
local function meter_key(subject) return prefix .. 'meter:' .. subject end
local function open_key(subject) return prefix .. 'open:' .. subject end
local function ledger_key(page) return prefix .. 'ledger:' .. page end
local function micros(seconds) return math.floor(seconds * 1000000 + 0.5) end
-- As redis writes numbers itself, it rounds to fourteen digits.
local function whole(number) return string.format('%.0f', number) end

-- Puts the tokens that were used in the place of those that were reserved, once. What time has given back already is
-- not given back again: at most what is left of the reservation, had nothing been charged after it.
-- In: reference: page of the ledger and id. used: tokens. now: microseconds. Returns 1, or 0 if there is no such
-- reservation any more.
local function settle(reference, used, now)
  local page, id = string.match(reference, '^(.*):(.-)$')
  local entry = page and redis.call('HGET', ledger_key(page), id)
  if not entry or string.sub(entry, 1, 5) ~= 'held ' then return 0 end
  local words = {}
  for word in string.gmatch(entry, '%S+') do words[#words + 1] = word end
  local reserved, since = tonumber(words[5]), tonumber(words[6])
  for i = 7, #words, 3 do
    local subject, limit, last = words[i], tonumber(words[i + 1]), tonumber(words[i + 2])
    local found = redis.call('HMGET', meter_key(subject), 'tokens', 'at')
    local at = tonumber(found[2] or now)
    local drained = math.max(0, now - at) * limit
    local owed = math.max(0, tonumber(found[1] or 0) - drained)
    local change = (used - reserved) * MINUTE_US
    if change < 0 then
      change = -math.min(-change, math.max(0, last - math.max(0, now - since) * limit), owed)
    end
    -- The other kinds are as they were at that time, so this one is written as if it had been, too.
    redis.call('HSET', meter_key(subject), 'tokens', whole(owed + change + drained), 'at', whole(at))
    if change > 0 or not found[2] then  -- else it is kept for long enough
      local left_ms = math.ceil(((owed + change) / limit + math.max(0, at - now)) / 1000) + 1000
      if redis.call('PTTL', meter_key(subject)) < left_ms then redis.call('PEXPIRE', meter_key(subject), left_ms) end
    end
  end
  redis.call('HSET', ledger_key(page), id,
    table.concat({'settled', words[2], words[3], words[4], whole(used), words[6]}, ' '))
  return 1
end
