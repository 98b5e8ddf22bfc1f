-- Charges a request to all subjects that it counts against, or to none.
-- In: id: of the request. owner: whose ledger. lease_s: after which an open request that was not renewed is taken for
-- dead. requests, pictures, kilopixels, tokens: what it costs. Then, per subject: name, the limits of these four per
-- minute, and of open requests; '' for no limit.
-- Out: one string, since redis' client reads a list word by word: page of the ledger, '-' if it was refused; by which
-- subject, from 1 on; by which of its limits: 1 to 4, or 5 for open requests; after how many microseconds it may be sent
-- again; then per subject and kind: what is left, and in how many microseconds it is as before any request; '-' without
-- a limit.
--@include limits
local now, id, owner, lease_s, requests, pictures, kilopixels, tokens = unpack(ARGV)
local seconds = clock(now)
now = micros(seconds)
local costs = {tonumber(requests), tonumber(pictures), tonumber(kilopixels), tonumber(tokens)}
local subjects, refused, kind, wait = {}, 0, 0, -1

local function refuse(subject, by, micros_left)
  if micros_left > wait then refused, kind, wait = subject, by, micros_left end
end

for i = 9, #ARGV, 6 do
  local subject = {name = ARGV[i], owed = {}, limits = {}, most_open = tonumber(ARGV[i + 5])}
  subjects[#subjects + 1] = subject
  local found = redis.call('HMGET', meter_key(subject.name), 'at', unpack(KINDS))
  local since = tonumber(found[1] or now)
  -- A clock that was set back: what is owed would stay owed until the clock has caught up.
  if since - now > SET_BACK_US then
    since = now
    redis.call('HSET', meter_key(subject.name), 'at', whole(now))  -- also if this is refused: it drains from now on
  end
  subject.at = math.max(now, since)
  local passed = subject.at - since
  for k = 1, 4 do
    local limit = tonumber(ARGV[i + k])
    if limit then
      subject.limits[k] = limit
      subject.owed[k] = math.max(0, tonumber(found[k + 1] or 0) - passed * limit)
      local over = subject.owed[k] + (costs[k] - limit) * MINUTE_US
      if costs[k] > 0 and over > 0 then refuse(#subjects, k, math.ceil(over / limit) + subject.at - now) end
    elseif found[k + 1] then
      subject.is_lifted = true
    end
  end
  if subject.most_open then
    redis.call('ZREMRANGEBYSCORE', open_key(subject.name), '-inf', seconds)
    local till = seconds + tonumber(lease_s)
    for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', open_key(subject.name), till + 1, '+inf')) do
      redis.call('ZADD', open_key(subject.name), till, ahead)  -- likewise
    end
    -- When one of them will end is not known.
    if redis.call('ZCARD', open_key(subject.name)) >= subject.most_open then refuse(#subjects, 5, OPEN_WAIT_US) end
  end
end

local entry = {'held', requests, pictures, kilopixels, tokens, whole(now)}
for _, subject in ipairs(refused > 0 and {} or subjects) do
  if subject.is_lifted then redis.call('HDEL', meter_key(subject.name), unpack(KINDS)) end
  local left_us, words = 0, {'at', whole(subject.at)}
  for k = 1, 4 do
    local limit = subject.limits[k]
    if limit then
      subject.owed[k] = subject.owed[k] + costs[k] * MINUTE_US
      left_us = math.max(left_us, subject.owed[k] / limit)
      words[#words + 1], words[#words + 2] = KINDS[k], whole(subject.owed[k])
    end
  end
  if #words > 2 then
    redis.call('HSET', meter_key(subject.name), unpack(words))
    redis.call('PEXPIRE', meter_key(subject.name), math.ceil(left_us / 1000) + 1000)
  end
  if subject.limits[4] then
    entry[#entry + 1], entry[#entry + 2], entry[#entry + 3] =
      subject.name, whole(subject.limits[4]), whole(subject.owed[4])
  end
  if subject.most_open then
    redis.call('ZADD', open_key(subject.name), seconds + tonumber(lease_s), id)
    redis.call('PEXPIRE', open_key(subject.name), math.ceil(tonumber(lease_s) * 1000) + 1000)
  end
end

local page = '-'
if refused == 0 then
  page = owner .. ':' .. whole(math.floor(now / MINUTE_US))
  redis.call('HSET', ledger_key(page), id, table.concat(entry, ' '))
  redis.call('EXPIRE', ledger_key(page), LEDGER_TTL_S)
end
local out = {page, whole(refused), whole(kind), whole(math.max(wait, 0))}
for _, subject in ipairs(subjects) do
  for k = 1, 4 do
    local limit, owed = subject.limits[k], subject.owed[k]
    out[#out + 1] = limit and whole(math.max(0, math.floor((limit * MINUTE_US - owed) / MINUTE_US))) or '-'
    out[#out + 1] = limit and whole(math.ceil(owed / limit)) or '-'
  end
end
return table.concat(out, ' ')
