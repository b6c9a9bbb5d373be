-- What stands against running an attempt of a task. Changes nothing.
-- KEYS[1] the task's record   KEYS[2] its reply
-- ARGV    offset ms, body hash, attempt
-- Returns {'open'}, or what `stands_against` says.

local now = now_ms(ARGV[1])
return stands_against(read(KEYS[1], now), KEYS[2], ARGV[2], ARGV[3], now) or {'open'}
