-- The task is counted in a group. Of two groups the first one shows. Takes nothing from the record's expiry, nor from a note that may be taken back.
-- KEYS[1] the task's record
-- ARGV    offset ms, group
-- Returns {'noted'}, or {'kept'}: nothing is known of the task; nothing changed.

local record = read(KEYS[1], now_ms(ARGV[1]))
if not seen(record) then
  return {'kept'}
end
redis.call('HSETNX', KEYS[1], 'group', ARGV[2])
return {'noted'}
