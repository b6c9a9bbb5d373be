-- A producer is about to publish a task: it waits from now on.
-- KEYS[1] the task's record
-- ARGV    offset ms, outcome retention ms, kind
-- Returns {'written'}, or {'exists'}: the store knew the task, nothing changed.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if record.first_seen then
  return {'exists'}
end
write(KEYS[1], record, now, ARGV[2], {'only_submitted', '1', 'kind', ARGV[3]})
return {'written'}
