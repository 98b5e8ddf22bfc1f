-- Plans the deliveries of an event.
-- In: url: told too, '' for none. Out: how many were planned.
--@include fan_out
local now, owner, url, event_id, kind, body = unpack(ARGV)
return fan_out(owner, url, event_id, kind, body, clock(now))
