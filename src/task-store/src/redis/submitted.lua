-- A producer is about to publish a task: it waits from now on, and its id is its own.
-- KEYS[1] the task's record
-- ARGV    offset ms, outcome retention ms, kind, body hash
-- Returns {'noted'}   no task of the id was known
--         {'known'}   this very task was; nothing changed, but that one more relies on the note
--         {'other'}   a task with another body or of another kind was; nothing changed

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if seen(record) then
  if record.hash and record.hash ~= ARGV[4] or record.kind and record.kind ~= ARGV[3] then
    return {'other'}
  end
  if record.only_submitted then
    redis.call('HINCRBY', KEYS[1], 'only_submitted', 1)
  end
  return {'known'}
end
if record.cancelled_unseen then
  -- What is submitted now comes after the cancel.
  record = {stale = true}
end
write(KEYS[1], record, now, ARGV[2], {'only_submitted', '1', 'kind', ARGV[3], 'hash', ARGV[4]})
return {'noted'}
