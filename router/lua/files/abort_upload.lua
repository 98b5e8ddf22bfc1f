-- Drops an upload.
-- Out: 1.
--@include files
local id, owner = unpack(ARGV)
drop_upload(owner, id)
return 1
