-- Replaces the caller's own pairs of a job: the one part of what was accepted that may change.
-- In: metadata: JSON. Out: 1 | 0 (no such job).
--@include jobs
local id, metadata = unpack(ARGV)
if redis.call('EXISTS', job_key(id)) == 0 then return 0 end
redis.call('HSET', job_key(id), 'metadata', metadata)
return 1
