-- Batches: who may write to one, what goes into its files, how it ends.
--@include files
--@include fan_out
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
    local piece = string.sub(data, at, at + CHUNK_BYTES - size % CHUNK_BYTES - 1)
    redis.call('APPEND', data_key(file, math.floor(size / CHUNK_BYTES)), piece)
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
