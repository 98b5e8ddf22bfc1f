-- Forgets a kept answer.
-- Out: 1 | 0 (there is none).
--@include cache
local owner, name = unpack(ARGV)
return drop_answer(owner, name)
