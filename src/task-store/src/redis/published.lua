-- The reply was published. The first time is noted; the record's expiry stays.
-- KEYS[1] the task's record
-- ARGV    offset ms
-- Returns {'noted'}, or {'kept'}: noted before, or nothing recorded; nothing changed.

local now = now_ms(ARGV[1])
if read(KEYS[1], now).outcome and redis.call('HSETNX', KEYS[1], 'published', text(now)) == 1 then
  return {'noted'}
end
return {'kept'}
