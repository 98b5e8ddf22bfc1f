-- Takes lines from the input that are answered by an error at once.
-- In: line, end_offset: of the last one. entries: for the error file. Out: 1 | 0 (not yours).
--@include batches
local id, epoch, line, end_offset, num_lines, entries = unpack(ARGV)
if not owns(id, epoch) then return 0 end
if tonumber(line) <= tonumber(redis.call('HGET', batch_key(id), 'line')) then return 1 end
append(id, 'error', entries)
redis.call('HINCRBY', batch_key(id), 'failed', num_lines)
redis.call('HSET', batch_key(id), 'line', line, 'offset', end_offset)
return 1
