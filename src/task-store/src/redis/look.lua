-- What stands against running an attempt of a task. Changes nothing.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms, body hash, attempt, Unix second in which it was published ('' if not known)
-- Returns {'open'}, what `stands_against` or a slice's batch says, or
--   {'unfinished', token, GPU, incarnation, delivery}   an attempt has no end

local now = now_ms(ARGV[1])
local record, _, against = read_task(KEYS, now, ARGV[2])
return against or stands_against(record, ARGV[2], ARGV[3], now, ARGV[4]) or unfinished(record, '') or {'open'}
