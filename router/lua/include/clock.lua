-- In: KEYS[1], what all keys begin with. Out: `prefix`, and how time is read and written.
local prefix = KEYS[1]

-- Unix seconds; '' stands for the time of redis itself, so that machines need not agree on theirs.
local function clock(reading)
  if reading ~= '' then return tonumber(reading) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function stamp(time) return string.format('%.6f', time) end
