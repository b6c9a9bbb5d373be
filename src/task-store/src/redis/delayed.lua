-- A task must not begin before a time: its status says so until then, by the server's clock, and its record lives until then and for its retention after that.
-- KEYS[1] the task's record
-- ARGV    offset ms, outcome retention ms, kind, body hash, that time as its producer said it (Unix ms), how long it is from now (ms)
-- Returns {'noted'}, or {'kept'}: an attempt of it began, it ended, or the id belongs to another task; nothing changed.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if record.outcome or record.attempt or record.due or record.hash and record.hash ~= ARGV[4] or record.kind and record.kind ~= ARGV[3] then
  return {'kept'}
end
record.delayed_until = text(now + tonumber(ARGV[6]))
-- Who submitted it may still take that back.
record.only_submitted = nil
write(KEYS[1], record, now, ARGV[2], {'kind', ARGV[3], 'hash', ARGV[4], 'not_before', ARGV[5], 'delayed_until', record.delayed_until})
return {'noted'}
