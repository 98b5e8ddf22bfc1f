-- Pictures: a blob lives while a job holds it.
--@include jobs
local AGENDA = prefix .. 'agenda'
local function blob_key(sha) return prefix .. 'blob:' .. sha end
local function holders_key(sha) return prefix .. 'holders:' .. sha end

local function outlive(key, seconds)
  if redis.call('TTL', key) < seconds then redis.call('EXPIRE', key, seconds) end
end

local function missing_blobs(blobs)
  local missing = {}
  for sha in string.gmatch(blobs, '%S+') do
    if redis.call('EXISTS', blob_key(sha)) == 0 then missing[#missing + 1] = sha end
  end
  return missing
end

-- What an owner's jobs hold together: per picture how many jobs do, and under 'bytes' the sum of all pictures.
local function pictures_key(owner) return prefix .. 'pictures:' .. owner end
-- An owner's ended jobs that still hold pictures, by when they ended: those go first if there must be room.
local function ended_key(owner) return prefix .. 'ended_pictures:' .. owner end

local function hold_blobs(id, owner, blobs, seconds)
  local key = pictures_key(owner)
  for sha in string.gmatch(blobs, '%S+') do
    if redis.call('EXISTS', blob_key(sha)) == 1 then
      if redis.call('SADD', holders_key(sha), id) == 1 and redis.call('HINCRBY', key, sha, 1) == 1 then
        redis.call('HINCRBY', key, 'bytes', redis.call('STRLEN', blob_key(sha)))
      end
      outlive(holders_key(sha), seconds)
      outlive(blob_key(sha), seconds)
      outlive(key, seconds)
    end
  end
end

local function release_blobs(id)
  local found = redis.call('HMGET', job_key(id), 'blobs', 'owner')
  local key = pictures_key(found[2])
  for sha in string.gmatch(found[1] or '', '%S+') do
    if redis.call('SREM', holders_key(sha), id) == 1 then
      -- Of a job that an earlier release began there is no count.
      if redis.call('HEXISTS', key, sha) == 1 and redis.call('HINCRBY', key, sha, -1) <= 0 then
        redis.call('HDEL', key, sha)
        redis.call('HINCRBY', key, 'bytes', -redis.call('STRLEN', blob_key(sha)))
        if redis.call('HLEN', key) == 1 then redis.call('DEL', key) end
      end
      if redis.call('EXISTS', holders_key(sha)) == 0 then redis.call('DEL', blob_key(sha)) end
    end
  end
  redis.call('HDEL', job_key(id), 'blobs')
  redis.call('ZREM', ended_key(found[2]), id)
end

-- Says whether an owner may hold pictures of these sizes too; lets go of those of ended jobs for it, the oldest first.
local function make_room(owner, blobs, sizes, most)
  local next_size, fresh = string.gmatch(sizes, '%S+'), {}
  for sha in string.gmatch(blobs, '%S+') do
    fresh[sha] = tonumber(next_size() or redis.call('STRLEN', blob_key(sha)))
  end
  while true do
    local total = tonumber(redis.call('HGET', pictures_key(owner), 'bytes') or 0)
    for sha, size in pairs(fresh) do
      if redis.call('HEXISTS', pictures_key(owner), sha) == 0 then total = total + size end
    end
    if total <= most then return true end
    local oldest = redis.call('ZRANGE', ended_key(owner), 0, 0)[1]
    if not oldest then return false end
    local found = redis.call('HMGET', job_key(oldest), 'completed_at', 'ttl')
    if found[1] then
      release_blobs(oldest)
      redis.call('ZADD', AGENDA, tonumber(found[1]) + tonumber(found[2]), oldest)
    else
      redis.call('ZREM', ended_key(owner), oldest)
    end
  end
end

-- Decides when an ended record is looked at next: first its pictures go, then all of it.
local function retain(id, now)
  local found = redis.call('HMGET', job_key(id), 'ttl', 'blobs', 'blob_ttl', 'owner', 'completed_at')
  local ttl = tonumber(found[1])
  if found[2] then
    redis.call('ZADD', ended_key(found[4]), found[5], id)
    outlive(ended_key(found[4]), ttl + NET_S)
  end
  local first = found[2] and math.min(tonumber(found[3]), ttl) or ttl
  redis.call('ZADD', AGENDA, now + first, id)
  redis.call('EXPIRE', job_key(id), ttl + NET_S)
  redis.call('EXPIRE', events_key(id), ttl + NET_S)
end
