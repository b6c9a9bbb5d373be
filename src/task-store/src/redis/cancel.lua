-- Asks for a task's end. Of a known task, asking again changes nothing.
-- KEYS[1] the task's record
-- ARGV    offset ms, outcome retention ms, 1 if it reaches what is published later where no task of the id is known, else 0
-- Returns {'ended', outcome}   nothing changed
--         {'running', GPU}     its worker finds the mark; of a batch that was split, the GPU whose slice began last
--         {'waiting'}          it will be skipped
--         {'unseen'}           no task of the id is known: what was published up to this second will be skipped, and with reach what comes later too

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if record.outcome then
  return {'ended', record.outcome}
end
local answer = {'waiting'}
if not seen(record) then
  answer = {'unseen'}
elseif runs(record) or a_slice_runs(record) then
  answer = {'running', record.gpu}
end
if answer[1] == 'unseen' and ARGV[3] ~= '1' and (record.cancelled_unseen or not record.cancelled) then
  write(KEYS[1], record, now, ARGV[2], {'cancelled', text(now), 'cancelled_unseen', '1'})
  return answer
end
write(KEYS[1], record, now, ARGV[2], {'cancelled', record.cancelled or text(now)})
if record.cancelled_unseen then
  redis.call('HDEL', KEYS[1], 'cancelled_unseen')
end
return answer
