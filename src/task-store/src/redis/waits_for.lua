-- Why a task waits, for `why`. Once it ended nothing changes.
-- KEYS[1] the task's record
-- ARGV    offset ms, outcome retention ms, kind (written if none is known), reason
-- Returns {'written'} or {'ended'}.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if record.outcome then
  return {'ended'}
end
write(KEYS[1], record, now, ARGV[2], {'waiting', ARGV[4], 'kind', record.kind or ARGV[3]})
return {'written'}
