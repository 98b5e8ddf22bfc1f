-- Forgets a file.
-- Out: 1 | 0 (no such file of the owner).
--@include files
local id, owner = unpack(ARGV)
local found = redis.call('HMGET', file_key(id), 'owner', 'bytes')
if found[1] ~= owner then return 0 end
for number = 0, num_chunks(tonumber(found[2])) - 1 do redis.call('UNLINK', data_key(id, number)) end
redis.call('DEL', file_key(id))
redis.call('ZREM', files_key(owner), id)
return 1
