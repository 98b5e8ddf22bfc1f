-- Says how far an unfinished job is.
-- Out: '' (it has ended) | {service seconds of merges or '', then per unfinished branch, or for the merge: how many
-- units are ahead of it or '', seconds it has run, its queue's service seconds or '', parallel runs, running now}.
--@include queues
local id, now = unpack(ARGV)
now = clock(now)
local key = job_key(id)
local job = redis.call('HMGET', key, 'state', 'class', 'owner')
if is_terminal(job[1] or 'failed') then return '' end
local class, owner = tonumber(job[2]), job[3]

local function depth(queue, of)
  return tonumber(redis.call('HGET', QUEUES, 'depth:' .. queue .. ':' .. of) or 0)
end

local function ahead_of(queue, member)
  local turns = turns_key(queue, class)
  local rank = redis.call('ZRANK', line_key(queue, class, owner), member)
  if not rank then return 0 end
  local mine = redis.call('ZRANK', turns, owner)
  local ahead = mine
  if rank > 0 then
    local others, all = 0, redis.call('ZCARD', turns)
    for place, other in ipairs(redis.call('ZRANGE', turns, 0, MAX_WALK - 1)) do
      if other ~= owner then
        local rounds = rank + (place - 1 < mine and 1 or 0)
        others = others + math.min(rounds, redis.call('ZCARD', line_key(queue, class, other)))
      end
    end
    if all > MAX_WALK then others = math.floor(others * all / MAX_WALK) end
    ahead = rank + others
  end
  local higher = 0
  for of = 1, class - 1 do higher = higher + depth(queue, of) end
  return ahead + math.min(higher, (SHARE ^ (class - 1) - 1) * (ahead + 1))
end

local merge_queue = redis.call('HGET', key, 'merge.queue') or 'light'
local out = {redis.call('HGET', QUEUES, 'service:' .. merge_queue) or ''}
local function look(unit)
  local found = redis.call('HMGET', key, unit .. '.state', unit .. '.queue', unit .. '.at')
  if not found[1] or is_terminal(found[1]) then return end
  local queue = found[2]
  local pace = redis.call('HMGET', QUEUES, 'service:' .. queue, 'parallel:' .. queue, 'running:' .. queue)
  local is_queued = found[1] == 'queued'
  out[#out + 1] = is_queued and tostring(ahead_of(queue, id .. '|' .. unit)) or ''
  out[#out + 1] = is_queued and '0' or stamp(now - tonumber(found[3]))
  for i = 1, 3 do out[#out + 1] = pace[i] or '' end
end
for _, unit in ipairs(units_of(id)) do look(unit) end
if #out == 1 then look('merge') end
return out
