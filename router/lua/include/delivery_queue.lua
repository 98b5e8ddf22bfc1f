-- Whose attempt is next: owners take turns, within an owner its hosts do, and for one host the oldest is first.
--@include deliveries
local TURNS = prefix .. 'delivery_turns'
local function hosts_key(owner) return prefix .. 'delivery_hosts:' .. owner end
local function line_key(owner, host) return prefix .. 'delivery_line:' .. owner .. '|' .. host end

-- Puts a member behind all others, be it new or not.
local function to_the_end(set, member)
  local last = redis.call('ZREVRANGE', set, 0, 0, 'WITHSCORES')
  redis.call('ZADD', set, tonumber(last[2] or 0) + 1, member)
end

local function host_of(url)
  local authority = string.match(url, '^%a+://([^/?#]*)') or ''
  local host = string.match(authority, '^%[[^%]]*%]') or string.match(authority, '^(.-)%.*:?%d*$')
  return string.lower(host or '')
end

local function line_up(id)
  local found = redis.call('HMGET', delivery_key(id), 'owner', 'endpoint', 'url', 'next_at')
  local owner, url = found[1], found[3]
  if found[2] ~= '' then url = redis.call('HGET', endpoint_key(found[2]), 'url') or '' end
  local host = host_of(url)
  redis.call('ZADD', line_key(owner, host), found[4], id)
  if not redis.call('ZSCORE', hosts_key(owner), host) then to_the_end(hosts_key(owner), host) end
  if not redis.call('ZSCORE', TURNS, owner) then to_the_end(TURNS, owner) end
end

-- Takes the first out of a line, and its owner and host to the end of theirs.
local function take_first(owner, host)
  local line, hosts = line_key(owner, host), hosts_key(owner)
  local id = redis.call('ZPOPMIN', line)[1]
  if redis.call('EXISTS', line) == 1 then to_the_end(hosts, host) else redis.call('ZREM', hosts, host) end
  if redis.call('EXISTS', hosts) == 1 then to_the_end(TURNS, owner) else redis.call('ZREM', TURNS, owner) end
  return id
end
