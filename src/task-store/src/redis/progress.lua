-- How far a running attempt is. The last note wins.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms, outcome retention ms, token, fraction (0 to 1), message ('' if none),
--         and of a task with items: how many it has, how many of them have ended, how many of those failed ('' if that is not known)
-- Returns {'noted'}, of a slice with its whole batch's items, ended and failed ones
--         {'refused'}   no attempt runs under this token (it ended, is to be tried again, or a higher token began), or a slice's batch wants nothing of it; nothing changed

local now = now_ms(ARGV[1])
local record, batch = read_task(KEYS, now)
if record.token ~= ARGV[3] or not runs(record) or batch and not batch.wanted then
  return {'refused'}
end
local fields = { 'progress', ARGV[4], 'progress_message', ARGV[5], 'progress_at', text(now), 'progress_token', ARGV[3] }
if ARGV[6] then
  local failed = ARGV[8] ~= '' and ' ' .. ARGV[8] or ''
  fields[9], fields[10] = 'progress_items', ARGV[6] .. ' ' .. ARGV[7] .. failed
elseif record.progress_items then
  redis.call('HDEL', KEYS[1], 'progress_items')
end
write(KEYS[1], record, now, ARGV[2], fields)
if not batch then
  return {'noted'}
end
local done = ARGV[6] and math.min(ARGV[7], batch.size) or batch.done
local failed = ARGV[6] and math.min(tonumber(ARGV[8]) or 0, done) or batch.failed
note_slice(batch, now, ARGV[2], {state = 'running', done = done, failed = failed})
return {'noted', batch.items, text(batch.items_done), text(batch.items_failed)}
