-- Changes owners and keys in one step, unless somebody changed them since they were read; tells every process.
-- In: seen: the version that was read, '' if there was none. version: the new one.
-- Then: which hash, field, value ('' deletes the field). Out: 1 | 0 (changed meanwhile).
local prefix = KEYS[1]
local seen, version = unpack(ARGV)
local key = prefix .. 'auth:version'
if (redis.call('GET', key) or '') ~= seen then return 0 end
for i = 3, #ARGV, 3 do
  local hash = prefix .. 'auth:' .. ARGV[i]
  if ARGV[i + 2] == '' then redis.call('HDEL', hash, ARGV[i + 1]) else redis.call('HSET', hash, ARGV[i + 1], ARGV[i + 2]) end
end
redis.call('SET', key, version)
redis.call('PUBLISH', prefix .. 'auth', version)
return 1
