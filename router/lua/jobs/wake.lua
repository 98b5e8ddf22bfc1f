-- Queues units that waited for their engine to come back.
-- Out: how many.
--@include queues
local queue, max_woken, max_looked_at = unpack(ARGV)
local num_woken = 0
for _, member in ipairs(redis.call('ZRANGE', DELAYED, 0, tonumber(max_looked_at) - 1)) do
  local id, unit = split(member)
  local found = redis.call('HMGET', job_key(id), unit .. '.state', unit .. '.queue', unit .. '.away_at')
  if found[1] == 'queued' and found[2] == queue and found[3] then
    line_up(id, unit)
    num_woken = num_woken + 1
    if num_woken == tonumber(max_woken) then break end
  end
end
return num_woken
