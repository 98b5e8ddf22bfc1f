-- Lets a job that is not stored be read under its id.
-- In: left_by: the reader who has gone, '' for none. Out: 1 | 0 (no such job).
--@include jobs
local id, left_by = unpack(ARGV)
if redis.call('EXISTS', job_key(id)) == 0 then return 0 end
redis.call('HSET', job_key(id), 'told', '1')
if left_by ~= '' then redis.call('HSET', job_key(id), 'left', left_by) end
return 1
