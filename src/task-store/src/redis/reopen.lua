-- Forgets a task that ended, so that it can be published again.
-- KEYS[1] the task's record   KEYS[2] its reply
-- ARGV    offset ms, body hash
-- Returns {'open'}        forgotten, or never known
--         {'not_ended'}   nothing changed
--         {'reused'}      the id belongs to a task with another body; nothing changed

local record = read(KEYS[1], now_ms(ARGV[1]))
if not record.first_seen then
  return {'open'}
end
if record.hash and record.hash ~= ARGV[2] then
  return {'reused'}
end
if not record.outcome then
  return {'not_ended'}
end
redis.call('DEL', KEYS[1], KEYS[2])
return {'open'}
