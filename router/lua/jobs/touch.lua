-- Keeps pictures for a job that is still to come.
-- In: keep_s, then their hashes. Out: the hashes of those that are not there.
--@include blobs
local keep_s = unpack(ARGV)
local missing = {}
for i = 2, #ARGV do
  if redis.call('EXISTS', blob_key(ARGV[i])) == 0 then missing[#missing + 1] = ARGV[i]
  else outlive(blob_key(ARGV[i]), tonumber(keep_s)) end
end
return missing
