-- Says where the answer of a job is to be kept to be given again.
-- Out: 1 | 0 (no such job).
--@include jobs
local id, kept_as = unpack(ARGV)
if redis.call('EXISTS', job_key(id)) == 0 then return 0 end
redis.call('HSET', job_key(id), 'kept_as', kept_as)
return 1
