-- Notes that a line is begun anew.
-- Out: 1 | 0 (not yours).
--@include batches
local id, epoch, line, entry = unpack(ARGV)
if not owns(id, epoch) or redis.call('HEXISTS', lines_key(id), line) == 0 then return 0 end
redis.call('HSET', lines_key(id), line, entry)
return 1
