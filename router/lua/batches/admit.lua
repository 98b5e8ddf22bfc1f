-- Takes a line from the input.
-- In: end_offset: where it ends.
-- Out: 'ok' | 'not yours' | 'closing' (no more lines are taken) | 'duplicate' (of a custom id).
--@include batches
local id, epoch, line, end_offset, custom_id, entry = unpack(ARGV)
local key = batch_key(id)
if not owns(id, epoch) then return 'not yours' end
if redis.call('HGET', key, 'status') ~= 'in_progress' then return 'closing' end
-- A client whose connection broke may send the same command twice.
if tonumber(line) <= tonumber(redis.call('HGET', key, 'line')) then return 'ok' end
if redis.call('HSETNX', custom_ids_key(id), custom_id, line) == 0 then return 'duplicate' end
redis.call('HSET', lines_key(id), line, entry)
redis.call('HSET', key, 'line', line, 'offset', end_offset)
return 'ok'
