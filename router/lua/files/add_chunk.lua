-- Stores a chunk of an upload.
-- In: num_bytes: of the upload with it. keep_s: then it counts as broken off. Out: 'stored' | 'too many bytes'.
--@include files
local now, id, owner, number, data, num_bytes, keep_s, max_total_bytes = unpack(ARGV)
now = clock(now)
local size, keep = tonumber(num_bytes), tonumber(keep_s)
local _, stored = sum_files(owner)
if stored + sum_uploads(owner, id, now) + size > tonumber(max_total_bytes) then return 'too many bytes' end
-- Redis forgets it by itself a little later, should its owner never upload anything again.
for number = 0, tonumber(number) - 1 do redis.call('EXPIRE', data_key(id, number), 2 * keep) end
redis.call('SET', data_key(id, number), data, 'EX', 2 * keep)
redis.call('HSET', uploads_key(owner), id, string.format('%d|%.6f', size, now + keep))
redis.call('EXPIRE', uploads_key(owner), 2 * keep)
return 'stored'
