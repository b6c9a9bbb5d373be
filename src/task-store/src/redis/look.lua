-- What stands against running a task. Changes nothing.
-- KEYS[1] the task's record   KEYS[2] its reply
-- ARGV    offset ms, body hash
-- Returns {'open'}, or what `stands_against` says.

local now = now_ms(ARGV[1])
return stands_against(read(KEYS[1], now), KEYS[2], ARGV[2], now) or {'open'}
