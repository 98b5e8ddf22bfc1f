-- What metrics count: jobs that end, each told once, and how often something happened. Kept until somebody asks, and only
-- while somebody does.
--@include clock
local SCRAPED, ENDS, TALLIES = prefix .. 'metrics:asked', prefix .. 'metrics:ends', prefix .. 'metrics:tallies'

-- What nobody asks for any more goes when SCRAPED does; a look at it, which takes nearly all, puts that off.
local function expire_with_scraped(key)
  if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, math.max(redis.call('PTTL', SCRAPED), 1)) end
end

local function tally(name, by)
  if redis.call('EXISTS', SCRAPED) == 0 then return end
  redis.call('HINCRBY', TALLIES, name, by or 1)
  expire_with_scraped(TALLIES)
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
  expire_with_scraped(ENDS)
end
