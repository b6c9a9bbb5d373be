-- Why a task waits, for `why`. Once it ended nothing changes.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms, outcome retention ms, kind (written if none is known), reason
-- Returns {'written'} or {'ended'}.

local now = now_ms(ARGV[1])
local record, batch = read_task(KEYS, now)
if record.outcome then
  return {'ended'}
end
write(KEYS[1], record, now, ARGV[2], {'waiting', ARGV[4], 'kind', record.kind or ARGV[3]})
if batch then
  -- What it is at stays; its batch lives on.
  note_slice(batch, now, ARGV[2], batch)
end
return {'written'}
