-- What the scripts of a running unit need. They run many times a job, and all that is defined is defined at each run.
--@include clock
local function job_key(id) return prefix .. 'job:' .. id end
local function events_key(id) return prefix .. 'events:' .. id end
local LEASES, ACTIVITY = prefix .. 'leases', prefix .. 'activity'

-- That a job was queued is no entry: a stream takes memory for many from its first one on, and most of a queue waits.
local function event(id, kind, unit, epoch, text, state, logprobs)
  redis.call('XADD', events_key(id), '*', 'k', kind, 'u', unit, 'n', epoch, 'x', text, 's', state,
    'l', logprobs or '')
  redis.call('XADD', ACTIVITY, 'MAXLEN', '~', 4096, '*', 'j', id, 'k', kind)
end

local function owns(id, unit, epoch)
  local found = redis.call('HMGET', job_key(id), unit .. '.state', unit .. '.epoch')
  return found[1] == 'in_progress' and found[2] == epoch
end
