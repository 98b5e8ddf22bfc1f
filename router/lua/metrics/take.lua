-- Takes what is to be counted, once for all who ask, and says what waits.
-- In: queues: with commas. max_taken: ends of jobs. kept_s: for so long from now it is noted what is to be counted.
-- Out: {{ends}, {tally, number, ...}, {per queue: runs, units taken; per class: units that wait, age of the oldest or ''},
-- {units that are delayed, leases that expired, deliveries due, all that have not ended, redis' memory, its limit}}.
--@include queues
local now, queues, max_taken, kept_s = unpack(ARGV)
now = clock(now)
--@include counted
-- First what needs no memory: after its first write a script may write all, and a redis that is full tells this too.
redis.call('EXPIRE', ENDS, kept_s)
redis.call('SET', SCRAPED, 1, 'EX', kept_s)
local ends = redis.call('LPOP', ENDS, max_taken) or {}
local tallies = redis.call('HGETALL', TALLIES)
redis.call('DEL', TALLIES)

local function oldest_age(queue, class)
  local oldest
  for _, owner in ipairs(redis.call('ZRANGE', turns_key(queue, class), 0, MAX_WALK - 1)) do
    local head = redis.call('ZRANGE', line_key(queue, class, owner), 0, 0, 'WITHSCORES')
    local id, unit = split(head[1] or '|')
    -- A record that redis has forgotten leaves its place behind; it says nothing about the queue.
    if redis.call('HGET', job_key(id), unit .. '.state') == 'queued' then
      local accepted_at = tonumber(head[2])
      oldest = oldest and math.min(oldest, accepted_at) or accepted_at
    end
  end
  return oldest and stamp(math.max(now - oldest, 0)) or ''
end

local waiting = {}
for queue in string.gmatch(queues, '[^,]+') do
  local found = redis.call('HMGET', QUEUES, 'running:' .. queue, 'taken:' .. queue)
  local row = {found[1] or '0', found[2] or '0'}
  for class = 1, 3 do
    row[#row + 1] = redis.call('HGET', QUEUES, 'depth:' .. queue .. ':' .. class) or '0'
    row[#row + 1] = oldest_age(queue, class)
  end
  waiting[#waiting + 1] = row
end

local function before_now(set) return redis.call('ZCOUNT', set, '-inf', now) end
local numbers = {redis.call('ZCARD', DELAYED), before_now(LEASES)}

--@include delivery_queue
local lined_up = 0
for _, owner in ipairs(redis.call('ZRANGE', TURNS, 0, MAX_WALK - 1)) do
  for _, host in ipairs(redis.call('ZRANGE', hosts_key(owner), 0, MAX_WALK - 1)) do
    lined_up = lined_up + redis.call('ZCARD', line_key(owner, host))
  end
end
numbers[3], numbers[4] = before_now(DELIVERIES) + lined_up, redis.call('ZCARD', DELIVERIES) + lined_up
-- Whoever may not ask redis about itself gets the rest all the same.
local info = redis.pcall('INFO', 'memory')
if type(info) == 'string' then
  numbers[5] = string.match(info, 'used_memory:(%d+)')
  numbers[6] = string.match(info, 'maxmemory:(%d+)')
end
return {ends, tallies, waiting, numbers}
