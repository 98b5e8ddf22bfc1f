-- Deliveries: the log of their attempts, and how they end.
--@include fan_out
local function keep_attempt(id, entry)
  redis.call('RPUSH', attempts_key(id), entry)
  redis.call('LTRIM', attempts_key(id), -MAX_ATTEMPTS_KEPT, -1)
end

local function finish_delivery(id, state, failure)
  redis.call('HSET', delivery_key(id), 'state', state, 'failure', failure, 'next_at', '')
  redis.call('ZREM', DELIVERIES, id)
  redis.call('EXPIRE', delivery_key(id), LOG_TTL_S)
  redis.call('EXPIRE', attempts_key(id), LOG_TTL_S)
end
