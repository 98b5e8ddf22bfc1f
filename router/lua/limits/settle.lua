-- Ends requests: each gives its places back, and is charged for what it used instead of what it reserved.
-- In: then, per request: reference ('' for none), tokens used ('' as long as that is not known), id, and the subjects
-- whose open requests it is one of, with spaces. Out: how many were settled.
--@include limits
local now = unpack(ARGV)
now = micros(clock(now))
local num_settled = 0
for i = 2, #ARGV, 4 do
  local reference, used, id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if reference ~= '' and used ~= '' then num_settled = num_settled + settle(reference, tonumber(used), now) end
  for subject in string.gmatch(ARGV[i + 3], '%S+') do redis.call('ZREM', open_key(subject), id) end
end
return num_settled
