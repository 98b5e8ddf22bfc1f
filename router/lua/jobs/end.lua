-- Ends a job that is over its time.
-- In: read_states: its units and their states as they were read. used, measured: as in `complete`. Out: 1 | 0 (something has changed since).
--@include job_end
local id, now, read_states, state, final, error, used, measured = unpack(ARGV)
now = clock(now)
local key = job_key(id)
if is_terminal(redis.call('HGET', key, 'state') or 'failed') then return 0 end
local units, states = units_of(id), {}
units[#units + 1] = 'merge'
-- One that waits for another was read with the states of that one.
local read_key = job_key(redis.call('HGET', key, 'follows') or id)
for _, unit in ipairs(units) do
  local state = redis.call('HGET', read_key, unit .. '.state')
  if state then states[#states + 1] = unit .. '=' .. state end
end
if table.concat(states, ',') ~= read_states then return 0 end
if final ~= '' then redis.call('HSET', key, 'final', final) end
if error ~= '' then redis.call('HSET', key, 'error', error) end
finish_job(id, state, now, tonumber(used), false, measured)
return 1
