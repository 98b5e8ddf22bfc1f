-- Forgets a job and all that is only its own.
-- Out: 1 | 0 (no such job).
--@include job_end
local id, now = unpack(ARGV)
return forget(id, clock(now))
