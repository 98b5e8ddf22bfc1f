-- Turns one event into deliveries: one `delivery:ID` hash per receiver, due at once. Part of the scripts that end a job
-- or a batch, since the end and its deliveries must be one atomic step. A delivery's id follows from its event and its
-- receiver: fanned out twice, it is one.
--@include clock
local DELIVERIES = prefix .. 'deliveries'
local function delivery_key(id) return prefix .. 'delivery:' .. id end
local function attempts_key(id) return prefix .. 'delivery_attempts:' .. id end
local function endpoint_key(id) return prefix .. 'webhook_endpoint:' .. id end
local function endpoints_key(owner) return prefix .. 'webhook_endpoints:' .. owner end
local function log_key(of) return prefix .. 'webhook_log:' .. of end

-- Forgets the oldest of an owner's deliveries, those that have ended first; a few at a time, since one more is planned.
local function bound_log(owner)
  local log = log_key(owner)
  local over = redis.call('ZCARD', log) - MAX_LOG
  if over <= 0 then return end
  for _, id in ipairs(redis.call('ZRANGE', log, 0, 19)) do
    local state = redis.call('HGET', delivery_key(id), 'state')
    if over > MAX_LOG or not (state == 'pending' or state == 'in_progress') then
      redis.call('DEL', delivery_key(id), attempts_key(id))
      redis.call('ZREM', DELIVERIES, id)
      redis.call('ZREM', log, id)
      over = over - 1
      if over <= 0 then return end
    end
  end
end

-- origin: JSON of the request that the event is about, for logs and traces; nil for none.
local function plan_delivery(owner, endpoint, url, event_id, kind, body, now, origin)
  local receiver = endpoint ~= '' and endpoint or url
  local id = 'whd_' .. string.sub(redis.sha1hex(event_id .. '|' .. receiver), 1, 32)
  local key = delivery_key(id)
  if redis.call('HSETNX', key, 'state', 'pending') == 0 then return 0 end
  local at = string.format('%.6f', now)
  redis.call('HSET', key, 'owner', owner, 'endpoint', endpoint, 'url', url, 'event', event_id, 'type', kind,
    'body', body, 'created_at', at, 'next_at', at, 'expires_at', string.format('%.6f', now + MAX_AGE_S),
    'epoch', 0, 'attempts', 0, 'failures', 0, 'origin', origin or '')
  redis.call('ZADD', DELIVERIES, now, id)
  for _, of in ipairs(endpoint ~= '' and {owner, endpoint} or {owner}) do
    redis.call('ZADD', log_key(of), now, id)
    redis.call('EXPIRE', log_key(of), MAX_AGE_S + LOG_TTL_S)
  end
  bound_log(owner)
  if endpoint ~= '' then redis.call('ZREMRANGEBYRANK', log_key(endpoint), 0, -2 * MAX_LOG - 1) end
  return 1
end

-- Plans a delivery for the given URL, if any, and for every enabled endpoint of the owner that asked for such events.
local function fan_out(owner, url, event_id, kind, body, now, origin)
  if url == NOBODY then return 0 end
  local planned = 0
  if url ~= '' then planned = plan_delivery(owner, '', url, event_id, kind, body, now, origin) end
  for _, endpoint in ipairs(redis.call('ZRANGE', endpoints_key(owner), 0, -1)) do
    local found = redis.call('HMGET', endpoint_key(endpoint), 'status', 'event_types')
    if found[1] == 'enabled' and string.find(',' .. found[2] .. ',', ',' .. kind .. ',', 1, true) then
      planned = planned + plan_delivery(owner, endpoint, '', event_id, kind, body, now, origin)
    end
  end
  return planned
end
