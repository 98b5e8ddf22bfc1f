-- Files: a hash each, and their bytes in chunks.
--@include clock

local function file_key(id) return prefix .. 'file:' .. id end
local function files_key(owner) return prefix .. 'files:' .. owner end
local function data_key(id, number) return prefix .. 'file_data:' .. id .. ':' .. number end
local function num_chunks(size) return math.ceil(size / CHUNK_BYTES) end

local function commit_file(id, owner, filename, purpose, size, now, ttl)
  redis.call('HSET', file_key(id), 'owner', owner, 'filename', filename, 'purpose', purpose, 'bytes', size,
    'created_at', stamp(now), 'expires_at', stamp(now + ttl))
  redis.call('EXPIRE', file_key(id), ttl)
  for number = 0, num_chunks(size) - 1 do redis.call('EXPIRE', data_key(id, number), ttl) end
  redis.call('ZADD', files_key(owner), 0, id)
end

local function uploads_key(owner) return prefix .. 'uploads:' .. owner end

-- How many files an owner has, and how many bytes they have together.
local function sum_files(owner)
  local count, total = 0, 0
  for _, id in ipairs(redis.call('ZRANGE', files_key(owner), 0, -1)) do
    local size = redis.call('HGET', file_key(id), 'bytes')
    if size then
      count, total = count + 1, total + tonumber(size)
    else
      redis.call('ZREM', files_key(owner), id)
    end
  end
  return count, total
end

local function drop_upload(owner, id)
  local found = redis.call('HGET', uploads_key(owner), id)
  if not found then return end
  local size = tonumber(string.match(found, '^(%d+)|'))
  for number = 0, num_chunks(size) - 1 do redis.call('UNLINK', data_key(id, number)) end
  redis.call('HDEL', uploads_key(owner), id)
end

-- How many bytes of an owner are on their way in, but for one upload; those that broke off are dropped.
local function sum_uploads(owner, but, now)
  local total, found = 0, redis.call('HGETALL', uploads_key(owner))
  for i = 1, #found, 2 do
    local size, ends = string.match(found[i + 1], '^(%d+)|(.*)$')
    if found[i] ~= but then
      if tonumber(ends) <= now then drop_upload(owner, found[i]) else total = total + tonumber(size) end
    end
  end
  return total
end
