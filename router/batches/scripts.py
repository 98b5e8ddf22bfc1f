"""The Lua that changes files and batches: each script is one atomic step.

In: keys' prefix, a clock reading ('' means the server's own clock) and arguments. Out: small integers or lists. What a
runner writes carries the epoch it was given at `CLAIM`; with another epoch it is refused, so an api process that was
thought dead cannot write a line into the output a second time.

Keys: ``file:ID`` hash, ``file_data:ID:N`` chunk N, ``files:OWNER`` sorted set of ids, ``uploads:OWNER`` hash of what is
on its way in, ``BYTES|UNTIL`` by id; ``batch:ID`` hash,
``batch_lines:ID`` hash of the lines in flight, ``batch_custom_ids:ID`` hash of the names given to lines so far,
``batches:OWNER`` sorted set of ids, ``batches_open:OWNER`` set, ``batches_due`` sorted set of ids by when somebody
must take them up.
"""

from __future__ import annotations

from typing import Final

from router.jobs.fan_out import FAN_OUT

# Small enough that reading or writing one holds redis up for less than a millisecond.
CHUNK_BYTES: Final = 512 * 1024

_CLOCK: Final = """
local prefix = KEYS[1]
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local function stamp(time) return string.format('%.6f', time) end
"""

_FILES: Final = (
    f"local CHUNK = {CHUNK_BYTES}\n"
    + """
local function file_key(id) return prefix .. 'file:' .. id end
local function files_key(owner) return prefix .. 'files:' .. owner end
local function data_key(id, number) return prefix .. 'file_data:' .. id .. ':' .. number end
local function num_chunks(size) return math.ceil(size / CHUNK) end

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
"""
)

# clock, id, owner, number of the chunk, its bytes, bytes of the upload with it, seconds until it counts as broken off,
# most bytes in all -> 1 | -2 (too many bytes in all)
ADD_CHUNK: Final = (
    _CLOCK
    + _FILES
    + """
local now, id, owner, size, keep = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[6]), tonumber(ARGV[7])
local _, stored = sum_files(owner)
if stored + sum_uploads(owner, id, now) + size > tonumber(ARGV[8]) then return -2 end
-- Redis forgets it by itself a little later, should its owner never upload anything again.
for number = 0, tonumber(ARGV[4]) - 1 do redis.call('EXPIRE', data_key(id, number), 2 * keep) end
redis.call('SET', data_key(id, ARGV[4]), ARGV[5], 'EX', 2 * keep)
redis.call('HSET', uploads_key(owner), id, string.format('%d|%.6f', size, now + keep))
redis.call('EXPIRE', uploads_key(owner), 2 * keep)
return 1
"""
)

# id, owner -> 1
ABORT_UPLOAD: Final = _CLOCK + _FILES + "drop_upload(ARGV[2], ARGV[1])\nreturn 1\n"

# clock, id, owner, filename, purpose, bytes, ttl, most files, most bytes in all
# -> 1 | -1 (too many files) | -2 (too many bytes in all)
COMMIT_FILE: Final = (
    _CLOCK
    + _FILES
    + """
local now, id, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
local count, total = sum_files(owner)
count, total = count + 1, total + tonumber(ARGV[6])
if count > tonumber(ARGV[8]) then return -1 end
if total > tonumber(ARGV[9]) then return -2 end
commit_file(id, owner, ARGV[4], ARGV[5], tonumber(ARGV[6]), now, tonumber(ARGV[7]))
redis.call('HDEL', uploads_key(owner), id)
return 1
"""
)

# id, owner -> 1 | 0 (no such file of the owner)
DELETE_FILE: Final = (
    _CLOCK
    + _FILES
    + """
local id, owner = ARGV[1], ARGV[2]
local found = redis.call('HMGET', file_key(id), 'owner', 'bytes')
if found[1] ~= owner then return 0 end
for number = 0, num_chunks(tonumber(found[2])) - 1 do redis.call('UNLINK', data_key(id, number)) end
redis.call('DEL', file_key(id))
redis.call('ZREM', files_key(owner), id)
return 1
"""
)

_BATCHES: Final = (
    _CLOCK
    + FAN_OUT
    + _FILES
    + """
local DUE = prefix .. 'batches_due'
local function batch_key(id) return prefix .. 'batch:' .. id end
local function lines_key(id) return prefix .. 'batch_lines:' .. id end
local function custom_ids_key(id) return prefix .. 'batch_custom_ids:' .. id end
local function batches_key(owner) return prefix .. 'batches:' .. owner end
local function open_key(owner) return prefix .. 'batches_open:' .. owner end

local function has_ended(status)
  return status == 'completed' or status == 'failed' or status == 'expired' or status == 'cancelled'
end

local function owns(id, epoch)
  local found = redis.call('HMGET', batch_key(id), 'status', 'epoch')
  return found[1] and not has_ended(found[1]) and found[2] == epoch
end

local function set_status(id, status, now)
  redis.call('HSET', batch_key(id), 'status', status, status .. '_at', stamp(now))
end

-- Adds to one of the two files while the batch runs. `which` is the field of the record that counts its bytes.
local function append(id, which, data)
  local file = redis.call('HGET', batch_key(id), which .. '_id')
  local size = redis.call('HINCRBY', batch_key(id), which .. '_bytes', #data) - #data
  local at = 1
  while at <= #data do
    local piece = string.sub(data, at, at + CHUNK - size % CHUNK - 1)
    redis.call('APPEND', data_key(file, math.floor(size / CHUNK)), piece)
    size, at = size + #piece, at + #piece
  end
end

-- Ends a batch: its files become readable, its working keys go, whom to tell is settled, in one step.
local function finish(id, status, now)
  local key = batch_key(id)
  set_status(id, status, now)
  local found = redis.call('HMGET', key, 'owner', 'output_ttl', 'ttl', 'webhook_url')
  for _, which in ipairs({'output', 'error'}) do
    local size = tonumber(redis.call('HGET', key, which .. '_bytes') or '0')
    if size > 0 then
      local file = redis.call('HGET', key, which .. '_id')
      commit_file(file, found[1], id .. '_' .. which .. '.jsonl', 'batch_output', size, now, tonumber(found[2]))
      redis.call('HSET', key, which .. '_file_id', file)
    end
  end
  redis.call('DEL', lines_key(id), custom_ids_key(id))
  redis.call('ZREM', DUE, id)
  redis.call('SREM', open_key(found[1]), id)
  redis.call('EXPIRE', key, found[3])
  local event_id = 'evt_' .. string.sub(redis.sha1hex(id .. '|' .. status), 1, 32)
  local kind = 'batch.' .. status
  -- The very bytes that every attempt sends and signs; ids and statuses hold nothing that JSON would escape.
  local body = string.format('{"id":"%s","object":"event","created_at":%d,"type":"%s","data":{"id":"%s"}}',
    event_id, math.floor(now), kind, id)
  fan_out(found[1], found[4], event_id, kind, body, now)
end

local function close_early(id, ending, status, now)
  redis.call('HSET', batch_key(id), 'ending', ending)
  set_status(id, status, now)
end
"""
)

# clock, id, owner, spec, seconds it may take, ids of output and error file, their ttl, the record's ttl,
# webhook URL or '', most batches under way -> 1 | 0 (the owner has that many)
CREATE: Final = (
    _BATCHES
    + """
local now, id, owner = clock(ARGV[1]), ARGV[2], ARGV[3]
if redis.call('SCARD', open_key(owner)) >= tonumber(ARGV[11]) then return 0 end
redis.call('HSET', batch_key(id), 'owner', owner, 'spec', ARGV[4], 'status', 'validating', 'epoch', 0,
  'created_at', stamp(now), 'expires_at', stamp(now + tonumber(ARGV[5])), 'output_id', ARGV[6], 'error_id', ARGV[7],
  'output_ttl', ARGV[8], 'ttl', ARGV[9], 'webhook_url', ARGV[10], 'total', 0, 'completed', 0, 'failed', 0,
  'line', 0, 'offset', 0)
redis.call('ZADD', batches_key(owner), 0, id)
redis.call('SADD', open_key(owner), id)
redis.call('ZADD', DUE, now, id)
return 1
"""
)

# clock, lease seconds, most of them -> id, epoch, id, epoch ...
CLAIM: Final = (
    _BATCHES
    + """
local now, claimed = clock(ARGV[1]), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, tonumber(ARGV[3]))) do
  if redis.call('EXISTS', batch_key(id)) == 1 then
    redis.call('ZADD', DUE, now + tonumber(ARGV[2]), id)
    claimed[#claimed + 1] = id
    claimed[#claimed + 1] = redis.call('HINCRBY', batch_key(id), 'epoch', 1)
  else
    redis.call('ZREM', DUE, id)
  end
end
return claimed
"""
)

# clock, id, epoch, lease seconds; 0 gives it back -> '' (no longer yours) | status, cancelled | expired | nothing
RENEW: Final = (
    _BATCHES
    + """
local now, id = clock(ARGV[1]), ARGV[2]
if not owns(id, ARGV[3]) then return '' end
redis.call('ZADD', DUE, now + tonumber(ARGV[4]), id)
local found = redis.call('HMGET', batch_key(id), 'status', 'expires_at', 'ending')
if now >= tonumber(found[2]) and (found[1] == 'validating' or found[1] == 'in_progress') then
  close_early(id, 'expired', 'finalizing', now)
end
return redis.call('HMGET', batch_key(id), 'status', 'ending')
"""
)

# clock, id, epoch, lines -> 1 | 0 (no longer yours, or not to be begun any more)
START: Final = (
    _BATCHES
    + """
local now, id = clock(ARGV[1]), ARGV[2]
if not owns(id, ARGV[3]) or redis.call('HGET', batch_key(id), 'status') ~= 'validating' then return 0 end
redis.call('HSET', batch_key(id), 'total', ARGV[4])
set_status(id, 'in_progress', now)
return 1
"""
)

# clock, id, epoch, errors -> 1 | 0 (no longer yours)
FAIL: Final = (
    _BATCHES
    + """
local now, id = clock(ARGV[1]), ARGV[2]
if not owns(id, ARGV[3]) then return 0 end
redis.call('HSET', batch_key(id), 'errors', ARGV[4])
finish(id, 'failed', now)
return 1
"""
)

# id, epoch, line, offset of its end, custom id, entry
# -> 1 | 0 (no longer yours) | -1 (no more lines are taken) | -2 (another line has that name)
ADMIT: Final = (
    _BATCHES
    + """
local id, line = ARGV[1], ARGV[3]
local key = batch_key(id)
if not owns(id, ARGV[2]) then return 0 end
if redis.call('HGET', key, 'status') ~= 'in_progress' then return -1 end
-- A client whose connection broke may send the same command twice.
if tonumber(line) <= tonumber(redis.call('HGET', key, 'line')) then return 1 end
if redis.call('HSETNX', custom_ids_key(id), ARGV[5], line) == 0 then return -2 end
redis.call('HSET', lines_key(id), line, ARGV[6])
redis.call('HSET', key, 'line', line, 'offset', ARGV[4])
return 1
"""
)

# id, epoch, last line, offset of its end, how many lines, their entries in the error file -> 1 | 0 (no longer yours)
SKIP: Final = (
    _BATCHES
    + """
local id = ARGV[1]
if not owns(id, ARGV[2]) then return 0 end
if tonumber(ARGV[3]) <= tonumber(redis.call('HGET', batch_key(id), 'line')) then return 1 end
append(id, 'error', ARGV[6])
redis.call('HINCRBY', batch_key(id), 'failed', ARGV[5])
redis.call('HSET', batch_key(id), 'line', ARGV[3], 'offset', ARGV[4])
return 1
"""
)

# id, epoch, line, entry -> 1 | 0 (no longer yours)
RETRY: Final = (
    _BATCHES
    + """
local id = ARGV[1]
if not owns(id, ARGV[2]) or redis.call('HEXISTS', lines_key(id), ARGV[3]) == 0 then return 0 end
redis.call('HSET', lines_key(id), ARGV[3], ARGV[4])
return 1
"""
)

# id, epoch, line, completed | failed, its line of the file, then name, count, name, count ... of tokens
# -> 1 | 0 (no longer yours, or in the output already)
RECORD: Final = (
    _BATCHES
    + """
local id, outcome = ARGV[1], ARGV[4]
if not owns(id, ARGV[2]) or redis.call('HDEL', lines_key(id), ARGV[3]) == 0 then return 0 end
append(id, outcome == 'completed' and 'output' or 'error', ARGV[5])
redis.call('HINCRBY', batch_key(id), outcome, 1)
for i = 6, #ARGV, 2 do redis.call('HINCRBY', batch_key(id), 'usage.' .. ARGV[i], ARGV[i + 1]) end
return 1
"""
)

# clock, id, epoch -> 0 (no longer yours) | 1 | -1 (it is to be closed early instead)
FINALIZE: Final = (
    _BATCHES
    + """
local now, id = clock(ARGV[1]), ARGV[2]
if not owns(id, ARGV[3]) then return 0 end
if redis.call('HGET', batch_key(id), 'ending') then return -1 end
if redis.call('HGET', batch_key(id), 'status') == 'in_progress' then set_status(id, 'finalizing', now) end
return 1
"""
)

# clock, id, epoch -> 0 (no longer yours, or lines are in flight) | 1
FINISH: Final = (
    _BATCHES
    + """
local now, id = clock(ARGV[1]), ARGV[2]
if not owns(id, ARGV[3]) or redis.call('HLEN', lines_key(id)) > 0 then return 0 end
finish(id, redis.call('HGET', batch_key(id), 'ending') or 'completed', now)
return 1
"""
)

# clock, id, owner -> 0 (no such batch of the owner) | 1
CANCEL: Final = (
    _BATCHES
    + """
local now, id = clock(ARGV[1]), ARGV[2]
local found = redis.call('HMGET', batch_key(id), 'owner', 'status')
if found[1] ~= ARGV[3] then return 0 end
if found[2] == 'validating' or found[2] == 'in_progress' then close_early(id, 'cancelled', 'cancelling', now) end
return 1
"""
)
