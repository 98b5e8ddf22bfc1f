-- Ends a line.
-- In: outcome: 'completed' or 'failed'. entry: its line of the file. Then token counts: name, count.
-- Out: 1 | 0 (not yours, or in the output already).
--@include batches
local id, epoch, line, outcome, entry = unpack(ARGV)
if not owns(id, epoch) or redis.call('HDEL', lines_key(id), line) == 0 then return 0 end
append(id, outcome == 'completed' and 'output' or 'error', entry)
redis.call('HINCRBY', batch_key(id), outcome, 1)
for i = 6, #ARGV, 2 do redis.call('HINCRBY', batch_key(id), 'usage.' .. ARGV[i], ARGV[i + 1]) end
return 1
