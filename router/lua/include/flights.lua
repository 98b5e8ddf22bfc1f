-- Single flight: of jobs that ask the same one runs, the leader, and the others wait for its end. `flight:FLIGHT` names
-- the leader; `followers:LEADER` is a sorted set of those who wait, by when they were accepted, each of which has the
-- leader's id as `follows`. If the leader ends without an answer for them, the first of them runs in its place.
--@include queues
local function flight_key(flight) return prefix .. 'flight:' .. flight end
local function followers_key(id) return prefix .. 'followers:' .. id end

-- Returns the job whose run a new one may share; none that waits behind more urgent ones than the new one is.
local function leader_of(flight, class)
  local id = redis.call('GET', flight_key(flight))
  if not id then return nil end
  local found = redis.call('HMGET', job_key(id), 'state', 'class')
  if is_terminal(found[1] or 'failed') or found[2] > class then return nil end
  if redis.call('ZCARD', followers_key(id)) >= MAX_FOLLOWERS then return nil end
  return id
end

local function lead(id, flight, seconds) redis.call('SET', flight_key(flight), id, 'EX', seconds) end

local function wait_for(leader, id, now, seconds)
  redis.call('HSET', job_key(id), 'follows', leader)
  redis.call('ZADD', followers_key(leader), now, id)
  if redis.call('TTL', followers_key(leader)) < seconds then redis.call('EXPIRE', followers_key(leader), seconds) end
end

-- Takes a job that ends out of its flight. Returns whether it waited for another.
local function leave_flight(id)
  local found = redis.call('HMGET', job_key(id), 'follows', 'flight')
  if found[1] then redis.call('ZREM', followers_key(found[1]), id) end
  if found[2] and redis.call('GET', flight_key(found[2])) == id then redis.call('DEL', flight_key(found[2])) end
  return found[1]
end

-- Whoever reads its stream looks at its record then.
local function tell_readers(id, kind) redis.call('XADD', ACTIVITY, 'MAXLEN', '~', 4096, '*', 'j', id, 'k', kind) end

local function take_followers(id)
  local followers = {}
  for _, follower in ipairs(redis.call('ZRANGE', followers_key(id), 0, -1)) do
    local found = redis.call('HMGET', job_key(follower), 'state', 'follows')
    if found[2] == id and not is_terminal(found[1] or 'failed') then followers[#followers + 1] = follower end
  end
  redis.call('DEL', followers_key(id))
  return followers
end

-- Lets the first of those who wait for a job run in its place, and the others wait for that one. Its units are queued by
-- the reaper, which sends the tickets too. Their epochs go on from the leader's, whose events its readers have seen.
local function replace_leader(id, now)
  local followers = take_followers(id)
  local first = followers[1]
  for i, follower in ipairs(followers) do
    local key = job_key(follower)
    local seconds = redis.call('TTL', key)
    if i == 1 then
      redis.call('HDEL', key, 'follows')
      for _, unit in ipairs(units_of(follower)) do
        redis.call('HSET', key, unit .. '.epoch', redis.call('HGET', job_key(id), unit .. '.epoch') or 0)
        redis.call('ZADD', DELAYED, now, follower .. '|' .. unit)
      end
      lead(follower, redis.call('HGET', key, 'flight'), seconds)
    else
      wait_for(first, follower, redis.call('HGET', key, 'accepted_at'), seconds)
    end
    tell_readers(follower, 'moved')
  end
end
