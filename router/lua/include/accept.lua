-- Puts a job at its beginning, be it new or failed.
-- In: spec: its JSON. class: of its priority. webhook_url, deadline_ms: '' for none. expires_s: then it is ended with
-- what there is. max_unfinished: jobs of the owner. blobs: hashes of its pictures; sizes: theirs, '' if not known.
-- is_strict: 1 if all of them must be there. list: where it is listed, '' for nowhere. grace_s: how long a merge waits
-- for a branch that it can do without. needs_both: 1 if the merge's queue is 'light' should an answer be missing.
-- lease_s: of a unit that is begun at once. reservation: of its tokens (`limits.lua`), '' for none. kept_as: where its
-- answer is kept to be given again, '' for nowhere. flight: of jobs that ask the same, '' for none. facts: JSON of what
-- `count_end` tells of it. origin: JSON of the request it came with.
-- is_captured: 1 if its owner lets us keep it for data sets. Then, per unit: name, queue, and patience in seconds, '' if
-- it is always waited for.
--@include job_end
local id, now, spec, owner, class, ttl_s, blob_ttl_s, webhook_url, expires_s, deadline_ms, max_unfinished, blobs,
  is_strict, list, grace_s, merge_queue, needs_both, sizes, max_picture_bytes, lease_s, reservation,
  kept_as, flight, facts, origin, is_captured = unpack(ARGV)
now = clock(now)
local key, FIRST_UNIT = job_key(id), 27

-- Whether its owner has as many unfinished jobs as it may have.
local function is_one_too_many()
  local counted = redis.call('HGET', UNFINISHED, owner .. (class == '3' and '|batch' or ''))
  return tonumber(counted or 0) >= tonumber(max_unfinished)
end

-- Puts it into the queues, unless it is to wait for a leader that asks the same.
local function accept(leader)
  local expires, ttl = tonumber(expires_s), tonumber(ttl_s)
  local keep = math.ceil(expires + ttl + NET_S)
  redis.call('HSET', key, 'state', 'queued', 'owner', owner, 'class', class, 'ttl', ttl, 'accepted_at', stamp(now),
    'facts', facts, 'origin', origin)
  if webhook_url ~= '' then redis.call('HSET', key, 'webhook_url', webhook_url) end
  if blobs ~= '' then
    redis.call('HSET', key, 'blobs', blobs, 'blob_ttl', blob_ttl_s)
    hold_blobs(id, owner, blobs, keep)
  end
  local due = now + expires
  if deadline_ms ~= '' then
    local deadline = now + tonumber(deadline_ms) / 1000
    redis.call('HSET', key, 'deadline_at', stamp(deadline))
    due = math.min(due, deadline)
  end
  redis.call('HSET', key, 'due_at', stamp(due), 'grace', grace_s)
  redis.call('ZADD', AGENDA, due, id)
  redis.call('ZREM', ended_key(owner), id)
  if reservation ~= '' then redis.call('HSET', key, 'reservation', reservation) end
  count(id, 1)
  redis.call('HSET', key, 'merge.queue', merge_queue, 'merge.needs_both', needs_both)
  if is_captured == '1' then redis.call('HSET', key, 'is_captured', '1') end
  if kept_as ~= '' then redis.call('HSET', key, 'kept_as', kept_as) end
  for i = FIRST_UNIT, #ARGV, 3 do
    redis.call('HSET', key, ARGV[i] .. '.queue', ARGV[i + 1], ARGV[i] .. '.patience', ARGV[i + 2])
    if leader then redis.call('HSET', key, ARGV[i] .. '.state', 'queued') else line_up(id, ARGV[i]) end
  end
  if flight ~= '' then
    redis.call('HSET', key, 'flight', flight)
    if leader then wait_for(leader, id, now, keep) else lead(id, flight, keep) end
  end
  redis.call('EXPIRE', key, keep)
  if list ~= owner then redis.call('HSET', key, 'list', list) end
  if list ~= '' then list_job(list, id, now, math.ceil(expires + ttl)) end
end
