-- What stands against running an attempt of a task. Changes nothing.
-- KEYS[1] the task's record
-- ARGV    offset ms, body hash, attempt, Unix second in which it was published ('' if not known)
-- Returns {'open'}, what `stands_against` says, or
--   {'unfinished', token, GPU, incarnation, delivery}   an attempt has no end

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
return stands_against(record, ARGV[2], ARGV[3], now, ARGV[4]) or unfinished(record, '') or {'open'}
