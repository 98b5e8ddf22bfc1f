-- Makes an upload a file.
-- Out: its fields and values | 'too many files' | 'too many bytes'.
--@include files
local now, id, owner, filename, purpose, num_bytes, ttl_s, max_files, max_total_bytes = unpack(ARGV)
now = clock(now)
local count, total = sum_files(owner)
count, total = count + 1, total + tonumber(num_bytes)
if count > tonumber(max_files) then return 'too many files' end
if total > tonumber(max_total_bytes) then return 'too many bytes' end
commit_file(id, owner, filename, purpose, tonumber(num_bytes), now, tonumber(ttl_s))
redis.call('HDEL', uploads_key(owner), id)
return redis.call('HGETALL', file_key(id))
