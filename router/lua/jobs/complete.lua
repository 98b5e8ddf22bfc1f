-- Ends a job with what its merge made.
-- In: epoch: of the merge. final, error: JSON, '' for none. used: tokens, of all units and the merge; '' for what the
-- units used. measured: of `count_end`. Out: 'not yours' | 'completed' | 'deliveries due'.
--@include job_end
local id, now, epoch, state, final, error, used, measured = unpack(ARGV)
now = clock(now)
local key = job_key(id)
if not owns(id, 'merge', epoch) then return 'not yours' end
if state ~= 'failed' then learn(id, 'merge', now) end
redis.call('HSET', key, 'merge.state', state == 'failed' and 'failed' or 'completed')
if final ~= '' then redis.call('HSET', key, 'final', final) end
if error ~= '' then redis.call('HSET', key, 'error', error) end
-- A refusal of the request itself would be the same for those who ask the same.
local failure = error ~= '' and cjson.decode(error) or {}
local is_refusal = failure.retryable == false and tonumber(failure.status or 500) < 500
if finish_job(id, state, now, tonumber(used), state ~= 'failed' or is_refusal, measured) then return 'deliveries due' end
return 'completed'
