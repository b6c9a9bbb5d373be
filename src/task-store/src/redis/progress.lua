-- How far a running attempt is. The last note wins.
-- KEYS[1] the task's record   KEYS[2] its reply (not read)
-- ARGV    offset ms, outcome retention ms, token, fraction (0 to 1), message ('' if none)
-- Returns {'noted'}, or {'refused'}: no attempt runs under this token (it ended, is to be tried again, or a higher token began); nothing changed.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if record.token ~= ARGV[3] or not runs(record) then
  return {'refused'}
end
write(KEYS[1], record, now, ARGV[2], {
  'progress', ARGV[4], 'progress_message', ARGV[5], 'progress_at', text(now), 'progress_token', ARGV[3],
})
return {'noted'}
