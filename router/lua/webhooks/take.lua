-- Takes the attempt whose turn it is.
-- In: lost: the end of the log entry of an attempt that was lost. full: JSON {owners, hosts, lines ("owner|host")} of
-- those that can have no more attempts now.
-- Out: 1 (ask again: there was too much for one call) | {} (nothing that may be taken)
-- | {id, host, epoch, attempts, failures, owner, endpoint, event, type, URL, body, secret or '', old secret or '', origin}.
--@include delivery_queue
local now, lease_s, lost, full = unpack(ARGV)
now = clock(now)
local lease = tonumber(lease_s)
full = cjson.decode(full)
local function set_of(names)
  local set = {}
  for _, name in ipairs(names) do set[name] = true end
  return set
end
local full_owners, full_hosts, full_lines = set_of(full.owners), set_of(full.hosts), set_of(full.lines)

local due = redis.call('ZRANGEBYSCORE', DELIVERIES, '-inf', now, 'LIMIT', 0, MAX_TAKEN)
for _, id in ipairs(due) do
  local key = delivery_key(id)
  local found = redis.call('HMGET', key, 'state', 'epoch', 'attempts', 'claimed_at')
  if found[1] == 'in_progress' then
    -- Whoever posted it is gone, and whether the receiver has it is not known: it gets it again, under the same id.
    keep_attempt(id, '{"number":' .. found[3] .. ',"started_at":' .. found[4] .. ',' .. lost)
    redis.call('HSET', key, 'state', 'pending', 'next_at', stamp(now), 'lost', found[2])
  end
  redis.call('ZREM', DELIVERIES, id)
  if found[1] == 'in_progress' or found[1] == 'pending' then line_up(id) end
end

-- Begins an attempt, unless there is none to make any more.
local function begin(id, host)
  local key = delivery_key(id)
  local found = redis.call('HMGET', key, 'state', 'next_at', 'endpoint', 'owner', 'event', 'type', 'url', 'body',
    'origin')
  if found[1] ~= 'pending' or tonumber(found[2]) > now then return nil end
  local endpoint, url, secret, old_secret = found[3], found[7], '', ''
  if endpoint ~= '' then
    local settings = redis.call('HMGET', endpoint_key(endpoint), 'status', 'url', 'secret', 'old_secret',
      'old_secret_until')
    if settings[1] ~= 'enabled' then
      finish_delivery(id, 'failed', settings[1] and 'endpoint_disabled' or 'endpoint_deleted')
      return nil
    end
    url, secret = settings[2], settings[3]
    if now < tonumber(settings[5]) then old_secret = settings[4] end
  end
  redis.call('HSET', key, 'state', 'in_progress', 'claimed_at', stamp(now))
  redis.call('ZADD', DELIVERIES, now + lease, id)
  return {id, host, redis.call('HINCRBY', key, 'epoch', 1), redis.call('HINCRBY', key, 'attempts', 1),
    tonumber(redis.call('HGET', key, 'failures')), found[4], endpoint, found[5], found[6], url, found[8],
    secret, old_secret, found[9] or ''}
end

local function next_host(owner)
  for _, host in ipairs(redis.call('ZRANGE', hosts_key(owner), 0, MAX_TURNS - 1)) do
    if not full_hosts[host] and not full_lines[owner .. '|' .. host] then return host end
  end
end

local num_looked_at = 0
for _, owner in ipairs(redis.call('ZRANGE', TURNS, 0, MAX_TURNS - 1)) do
  local host = not full_owners[owner] and next_host(owner)
  while host do
    if num_looked_at >= MAX_TAKEN then return 1 end
    num_looked_at = num_looked_at + 1
    local begun = begin(take_first(owner, host), host)
    if begun then return begun end
    host = next_host(owner)
  end
end
return #due >= MAX_TAKEN and 1 or {}
