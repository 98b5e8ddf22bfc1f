-- Accepts a job, each of its branches queued, or all of it waiting for a job that asks the same.
-- Out: {'created'} | {'joined', the other's id} | {'exists'} | {'too many jobs'} | {'too many bytes'}, of its owner's pictures
-- | {'missing', hashes of pictures}.
--@include accept
if redis.call('EXISTS', key) == 1 then return {'exists'} end
if is_one_too_many() then return {'too many jobs'} end
if blobs ~= '' and not make_room(owner, blobs, sizes, tonumber(max_picture_bytes)) then return {'too many bytes'} end
local missing = is_strict == '1' and missing_blobs(blobs) or {}
if #missing > 0 then return {'missing', unpack(missing)} end
local units = {}
for i = FIRST_UNIT, #ARGV, 3 do units[#units + 1] = ARGV[i] end
redis.call('HSET', key, 'spec', spec, 'units', table.concat(units, ','))
local leader = flight ~= '' and leader_of(flight, class) or nil
accept(leader)
return leader and {'joined', leader} or {'created'}
