-- Records how an attempt ended.
-- In: outcome: 'succeeded', 'failed' or 'pending'. is_gone: 1 if the endpoint is to be disabled.
-- Out: '' (not yours) | the state that the delivery has now.
--@include deliveries
--@include counted
local now, id, epoch, outcome, retry_in_s, entry, is_gone = unpack(ARGV)
now = clock(now)
local key = delivery_key(id)
local found = redis.call('HMGET', key, 'state', 'epoch', 'lost', 'expires_at', 'endpoint')
-- An attempt that was given up for lost, and not made again yet, may still say how it ended.
if found[2] ~= epoch or not (found[1] == 'in_progress' or (found[1] == 'pending' and found[3] == epoch)) then
  return ''
end
redis.call('HDEL', key, 'lost')
keep_attempt(id, entry)
if outcome == 'pending' and found[5] ~= '' and redis.call('EXISTS', endpoint_key(found[5])) == 0 then
  finish_delivery(id, 'failed', 'endpoint_deleted')
  tally('webhook:failed')
  return 'failed'
end
if outcome == 'pending' then
  local due = now + tonumber(retry_in_s)
  if due <= tonumber(found[4]) then
    redis.call('HINCRBY', key, 'failures', 1)
    redis.call('HSET', key, 'state', 'pending', 'next_at', stamp(due))
    redis.call('ZADD', DELIVERIES, due, id)
    tally('webhook:pending')
    return 'pending'
  end
  outcome = 'failed'
end
tally('webhook:' .. outcome)
finish_delivery(id, outcome, outcome == 'failed' and (is_gone == '1' and 'gone' or 'gave_up') or '')
if is_gone == '1' and redis.call('HGET', endpoint_key(found[5]), 'status') == 'enabled' then
  redis.call('HSET', endpoint_key(found[5]), 'status', 'disabled', 'updated_at', stamp(now))
end
return outcome
