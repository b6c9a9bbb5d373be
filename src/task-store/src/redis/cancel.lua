-- Asks for a task's end. Asking again changes nothing.
-- KEYS[1] the task's record   KEYS[2] its reply (not read)
-- ARGV    offset ms, outcome retention ms
-- Returns {'ended', outcome}   nothing changed
--         {'running', GPU}     its worker finds the mark
--         {'waiting'}          it will be skipped
--         {'unseen'}           it will be skipped if it arrives

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if record.outcome then
  return {'ended', record.outcome}
end
local answer = {'waiting'}
if not record.first_seen then
  answer = {'unseen'}
elseif runs(record) then
  answer = {'running', record.gpu}
end
write(KEYS[1], record, now, ARGV[2], {'cancelled', record.cancelled or text(now)})
return answer
