-- An attempt failed and the next one is due, unless the task ended, was cancelled, or a higher token began.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms, body hash, outcome retention ms, attempt, token, pause before the next attempt in ms, error
-- Returns {'retried', attempt that is due, pause in ms} (what was recorded first, if this attempt's retry had been recorded), {'superseded'}, or what
-- `stands_against` or a slice's batch says.

local now = now_ms(ARGV[1])
local record, batch, answer = read_task(KEYS, now, ARGV[2])
answer = answer or stands_against(record, ARGV[2], ARGV[4], now)
if answer then
  return answer
end
if record.token and tonumber(record.token) > tonumber(ARGV[5]) then
  return {'superseded'}
end
local due = text(tonumber(ARGV[4]) + 1)
write(KEYS[1], record, now, ARGV[3], {'hash', ARGV[2], 'due', due, 'due_after', ARGV[6], 'retry_error', ARGV[7]})
if record.waiting then
  redis.call('HDEL', KEYS[1], 'waiting')
end
record.due = due
if batch and not runs(record) then
  note_slice(batch, now, ARGV[3], {state = 'waiting'})
end
return {'retried', due, ARGV[6]}
