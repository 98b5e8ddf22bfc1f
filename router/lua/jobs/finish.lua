-- Records how a branch ended.
-- In: not_awaited: JSON of how a branch ends that is no longer waited for.
-- Out: 'not yours' | 'recorded' | 'merge due' (it was the last branch).
--@include branches
local id, now, unit, epoch, state, result, not_awaited = unpack(ARGV)
now = clock(now)
if not owns(id, unit, epoch) then return 'not yours' end
if state == 'completed' then learn(id, unit, now) end
if finish_branch(id, unit, epoch, state, result, now, not_awaited) then return 'merge due' end
return 'recorded'
