-- Cancels a job.
-- In: left_by: only if that reader was the last to leave; '' in any case. Out: '' (no such job) | the state it has now.
--@include job_end
local id, now, left_by = unpack(ARGV)
local state = redis.call('HGET', job_key(id), 'state')
if not state then return '' end
if is_terminal(state) then return state end
if left_by ~= '' and redis.call('HGET', job_key(id), 'left') ~= left_by then return state end
finish_job(id, 'cancelled', clock(now))
return 'cancelled'
