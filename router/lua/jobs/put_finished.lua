-- Records a job that was answered without the queue.
-- In: epoch, unit: of `begin`; '' if it was not begun. list, webhook_url: '' for none. is_direct: 1 if only that URL is
-- told, not the owner's endpoints. Then fields: name, value.
-- Out: {'stored'} | {'not yours'} | {'missing', hashes of pictures}. Pictures without room are not held.
--@include job_end
local id, now, owner, created_at, ttl_s, blob_ttl_s, blobs, is_strict, list,
  sizes, max_picture_bytes, webhook_url, epoch, unit, is_direct = unpack(ARGV)
now = clock(now)
local ttl = tonumber(ttl_s)
if blobs ~= '' and not make_room(owner, blobs, sizes, tonumber(max_picture_bytes)) then blobs = '' end
local missing = is_strict == '1' and missing_blobs(blobs) or {}
if #missing > 0 then return {'missing', unpack(missing)} end
if epoch ~= '' then
  if not owns(id, unit, epoch) then return {'not yours'} end
  drop(id, unit)
  count(id, -1)
  redis.call('HDEL', job_key(id), 'accepted_at', 'deadline_at', unit .. '.at')
end
redis.call('HSET', job_key(id), 'owner', owner, 'ttl', ttl, unpack(ARGV, 16))
if webhook_url ~= '' then redis.call('HSET', job_key(id), 'webhook_url', webhook_url) end
announce(id, redis.call('HGET', job_key(id), 'state'), now, is_direct == '1')
if blobs ~= '' then
  redis.call('HSET', job_key(id), 'blobs', blobs, 'blob_ttl', blob_ttl_s)
  hold_blobs(id, owner, blobs, ttl + NET_S)
end
retain(id, now)
if list ~= owner then redis.call('HSET', job_key(id), 'list', list) end
if list ~= '' then list_job(list, id, tonumber(created_at), ttl) end
if epoch ~= '' then redis.call('XADD', ACTIVITY, 'MAXLEN', '~', 4096, '*', 'j', id) end
return {'stored'}
