-- Takes the unit whose turn it is in a queue.
-- Out: {id, unit, epoch} | {} (nothing waits).
--@include queues
local now, queue, lease_s = unpack(ARGV)
now = clock(now)
local lease = tonumber(lease_s)
local turn = tonumber(redis.call('HGET', QUEUES, 'taken:' .. queue) or 0) + 1
local first = turn % (SHARE * SHARE) == 0 and 3 or turn % SHARE == 0 and 2 or 1
for _, class in ipairs({first, 1, 2, 3}) do
  while true do
    local turns = turns_key(queue, class)
    local owner = redis.call('ZRANGE', turns, 0, 0)[1]
    if not owner then break end
    local member = redis.call('ZRANGE', line_key(queue, class, owner), 0, 0)[1]
    take_out(queue, class, owner, member)
    if redis.call('ZSCORE', turns, owner) then
      redis.call('ZADD', turns, redis.call('HINCRBY', QUEUES, 'turn', 1), owner)
      redis.call('HSET', turned_key(queue, class), owner, stamp(now))
    end
    local id, unit = split(member)
    -- A record that redis has forgotten leaves its place behind.
    if redis.call('HGET', job_key(id), unit .. '.state') == 'queued' then
      redis.call('HSET', QUEUES, 'taken:' .. queue, turn)
      return {id, unit, start(id, unit, now, lease)}
    end
  end
end
return {}
