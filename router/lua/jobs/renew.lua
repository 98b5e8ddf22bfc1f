-- Renews the lease of a unit.
-- Out: 1 | 0 (not yours).
--@include jobs
local id, now, unit, epoch, lease_s = unpack(ARGV)
now = clock(now)
if not owns(id, unit, epoch) then return 0 end
redis.call('ZADD', LEASES, now + tonumber(lease_s), id .. '|' .. unit)
return 1
