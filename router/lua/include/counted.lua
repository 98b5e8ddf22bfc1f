-- What metrics count: jobs that end, each told once, and how often something happened. Kept until somebody asks, and only
-- while somebody does.
--@include clock
local SCRAPED, ENDS, TALLIES = prefix .. 'metrics:asked', prefix .. 'metrics:ends', prefix .. 'metrics:tallies'

local function tally(name, by)
  if redis.call('EXISTS', SCRAPED) == 1 then redis.call('HINCRBY', TALLIES, name, by or 1) end
end

-- In: measured: JSON of what whoever ended it knows more, '' or nil for nothing.
local function count_end(key, state, measured)
  if redis.call('EXISTS', SCRAPED) == 0 then return end
  local found = redis.call('HMGET', key, 'facts', 'accepted_at', 'completed_at', 'follows')
  local entry = {found[1] or '', state, found[2] or '', found[3] or '', found[4] and '1' or '', measured or ''}
  if redis.call('RPUSH', ENDS, table.concat(entry, '\n')) > MAX_UNCOUNTED then
    redis.call('LPOP', ENDS)
    tally('uncounted')
  end
end
