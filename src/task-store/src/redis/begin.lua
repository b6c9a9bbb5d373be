-- An attempt begins, unless the task ended, was cancelled, or a higher token began.
-- KEYS[1] the task's record   KEYS[2] its reply
-- ARGV    offset ms, body hash, outcome retention ms, kind, attempt, token, GPU, incarnation
-- Returns {'begun'} (also if this token had begun), {'superseded'}, or what `stands_against` says.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
local answer = stands_against(record, KEYS[2], ARGV[2], ARGV[5], now)
if answer then
  return answer
end
if record.token and tonumber(record.token) > tonumber(ARGV[6]) then
  return {'superseded'}
end
write(KEYS[1], record, now, ARGV[3], {'hash', ARGV[2], 'kind', ARGV[4], 'attempt', ARGV[5], 'token', ARGV[6], 'gpu', ARGV[7], 'incarnation', ARGV[8]})
if record.waiting then
  redis.call('HDEL', KEYS[1], 'waiting')
end
return {'begun'}
