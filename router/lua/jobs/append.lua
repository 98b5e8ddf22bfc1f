-- Adds text to the events of a job.
-- In: piece: its number within the run, '' for none. Out: 1 | 0 (not yours).
--@include jobs
local id, unit, epoch, text, logprobs, piece = unpack(ARGV)
if not owns(id, unit, epoch) then return 0 end
if piece ~= '' then
  -- Sent again because the answer to the first time was lost: it is there already.
  local key, piece = job_key(id), epoch .. ':' .. piece
  if redis.call('HGET', key, unit .. '.piece') == piece then return 1 end
  redis.call('HSET', key, unit .. '.piece', piece)
end
event(id, 'delta', unit, epoch, text, '', logprobs)
return 1
