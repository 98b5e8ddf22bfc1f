-- Looks for a kept answer.
-- In: name: '' if it takes decoding to know it; then question and sent tell it, if such files were sent before.
-- Out: {'answer', answer, name} | {'compare'} (another picture was sent with this question: theirs may be the same)
-- | {'none'}.
--@include cache
local owner, name, question, sent, now = unpack(ARGV)
if name == '' then
  name = redis.call('HGET', question_key(owner, question), sent)
  if not name then return {redis.call('EXISTS', question_key(owner, question)) == 1 and 'compare' or 'none'} end
end
local answer = redis.call('GET', answer_key(owner, name))
if not answer then return {'none'} end
redis.call('ZADD', order_key(owner), 'XX', clock(now), name)
return {'answer', answer, name}
