-- The attempt under a token was stopped by its own worker: it is nobody's crash.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms, outcome retention ms, token
-- Returns {'noted'}, or {'kept'}: a higher token began, or the task ended; nothing changed.

local now = now_ms(ARGV[1])
local record, batch = read_task(KEYS, now)
if record.outcome or record.token ~= ARGV[3] then
  return {'kept'}
end
write(KEYS[1], record, now, ARGV[2], {'settled', ARGV[3]})
if batch then
  note_slice(batch, now, ARGV[2], {state = 'waiting'})
end
return {'noted'}
