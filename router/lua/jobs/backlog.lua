-- Says what waits in each of some queues, by owner, and how fast they are.
-- Out: per queue {service seconds or '', parallel runs, running now, seconds since that was learned; per class: units that
-- wait, owners; per owner's line: class, owner, units, age of its oldest, time since its turn began}.
--@include queues
local now, queues = unpack(ARGV)
now = clock(now)
local out = {}
for queue in string.gmatch(queues, '[^,]+') do
  local pace = redis.call('HMGET', QUEUES, 'service:' .. queue, 'parallel:' .. queue, 'running:' .. queue,
    'learned:' .. queue)
  local row = {pace[1] or '', pace[2] or '', pace[3] or '', pace[4] and stamp(now - tonumber(pace[4])) or ''}
  for class = 1, 3 do
    row[#row + 1] = redis.call('HGET', QUEUES, 'depth:' .. queue .. ':' .. class) or 0
    row[#row + 1] = redis.call('ZCARD', turns_key(queue, class))
  end
  for class = 1, 3 do
    for _, owner in ipairs(redis.call('ZRANGE', turns_key(queue, class), 0, MAX_WALK - 1)) do
      local line = line_key(queue, class, owner)
      local head = redis.call('ZRANGE', line, 0, 0, 'WITHSCORES')
      local id, unit = split(head[1] or '|')
      -- A record that redis has forgotten leaves its place behind; it says nothing about the queue.
      if redis.call('HGET', job_key(id), unit .. '.state') == 'queued' then
        local accepted_at = tonumber(head[2])
        local turned_at = tonumber(redis.call('HGET', turned_key(queue, class), owner) or 0)
        for _, word in ipairs({class, owner, redis.call('ZCARD', line), stamp(now - accepted_at),
            stamp(now - math.max(accepted_at, turned_at))}) do
          row[#row + 1] = word
        end
      end
    end
  end
  out[#out + 1] = row
end
return out
