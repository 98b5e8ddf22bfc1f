-- Lists an owner's jobs, newest first.
-- In: after: an id, '' for the newest. state: '' for any.
-- Out: {} (no such id) | {1 if there is more, last id looked at, id, id, ...}.
--@include jobs
--@include listing
local list, after, state, limit, max_listed = unpack(ARGV)
local key, wanted, limit, most = jobs_key(list), state, tonumber(limit), tonumber(max_listed)
local start = 0
if after ~= '' then
  start = redis.call('ZREVRANK', key, after)
  if not start then return {} end
  start = start + 1
end
local found, dead, last, num_seen = {}, {}, after, 0
local has_more = 0
while has_more == 0 do
  local ids = redis.call('ZREVRANGE', key, start, start + 99)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local state = redis.call('HGET', job_key(id), 'state')
    if not state then
      dead[#dead + 1] = id
    elseif #found == limit or num_seen == most then
      has_more = 1
      break
    else
      num_seen, last = num_seen + 1, id
      if wanted == '' or wanted == state then found[#found + 1] = id end
    end
  end
  start = start + #ids
end
for _, id in ipairs(dead) do redis.call('ZREM', key, id) end
local reply = {has_more, last}
for _, id in ipairs(found) do reply[#reply + 1] = id end
return reply
