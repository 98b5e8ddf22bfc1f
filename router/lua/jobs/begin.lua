-- Records an answer that its caller is about to write itself, under a lease; one unit.
-- Out: {'begun', epoch} | {'exists'} | {'missing', hashes of pictures}. Pictures without room are not held.
--@include accept
local unit = ARGV[FIRST_UNIT]
if redis.call('EXISTS', key) == 1 then return {'exists'} end
if blobs ~= '' and not make_room(owner, blobs, sizes, tonumber(max_picture_bytes)) then blobs = '' end
local missing = is_strict == '1' and missing_blobs(blobs) or {}
if #missing > 0 then return {'missing', unpack(missing)} end
redis.call('HSET', key, 'spec', spec, 'units', unit, 'is_begun', '1')
accept()
drop(id, unit)
-- Who reads its stream gets all of it from the record at its end: it has no events unless a worker runs it again.
return {'begun', start(id, unit, now, tonumber(lease_s), true)}
