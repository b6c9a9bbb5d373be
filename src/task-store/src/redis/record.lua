-- Records how a task ended. The first record is final.
-- KEYS[1] the task's record   KEYS[2] its reply
-- ARGV    offset ms, body hash, outcome retention ms, kind ('' if it had no valid one), outcome, attempt, token ('' if it never ran),
--         digest of the reply, reply retention ms (0: do not keep the reply), reply
-- Returns {'recorded'}    written now
--         {'again'}       this very outcome had been recorded; nothing changed
--         {'superseded'}  an attempt that this one does not outrank began, or the record is of a body with another hash, whose reply must not
--                         go to this one's producer; nothing changed
--         {'ended', ...}  another outcome had been recorded (as `stands_against` says it); nothing changed

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if record.hash and record.hash ~= ARGV[2] then
  return {'superseded'}
end
if record.outcome then
  if record.ended_attempt == ARGV[6] and record.ended_token == ARGV[7] and record.digest == ARGV[8] then
    return {'again'}
  end
  return stands_against(record, ARGV[2], ARGV[6], now)
end
if is_late(record, ARGV[6], ARGV[7]) then
  return {'superseded'}
end

local reply_until = 0
if tonumber(ARGV[9]) > 0 then
  reply_until = now + tonumber(ARGV[9])
  redis.call('SET', KEYS[2], ARGV[10], 'PX', ARGV[9])
end
local fields = {'outcome', ARGV[5], 'ended_attempt', ARGV[6], 'ended_token', ARGV[7], 'digest', ARGV[8], 'reply_until', text(reply_until)}
if not record.hash then
  fields[11], fields[12] = 'hash', ARGV[2]
end
if ARGV[4] ~= '' and record.kind ~= ARGV[4] then
  fields[#fields + 1], fields[#fields + 2] = 'kind', ARGV[4]
end
write(KEYS[1], record, now, ARGV[3], fields)
if record.waiting then
  redis.call('HDEL', KEYS[1], 'waiting')
end
return {'recorded'}
