-- An attempt begins, unless the task ended, was cancelled, somebody else has it, or its crashes stand against it.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms, body hash, outcome retention ms, kind, attempt, delivery, GPU, incarnation, alone (1 or 0), most crashes,
--         token of a former holder ('' for none), whether that one is gone (1 or 0), Unix second in which it was published ('' if not known)
-- Returns {'begun', token} (the same token if it had begun for this delivery and the caller does not say that it is over), what `stands_against` or a slice's batch says, or
--   {'unfinished', token, GPU, incarnation, delivery}   another delivery's attempt has no end, and the caller does not say what became of it
--   {'suspect'}                                         it crashed before and is to run alone
--   {'condemned', crashes}                              its crashes are used up

local now = now_ms(ARGV[1])
local record, batch, answer = read_task(KEYS, now, ARGV[2])
answer = answer or stands_against(record, ARGV[2], ARGV[5], now, ARGV[13])
if answer then
  return answer
end
if runs(record) and record.attempt == ARGV[5] and record.incarnation == ARGV[8] and (record.delivery or '0') == ARGV[6]
  and record.token ~= ARGV[11] then
  return {'begun', record.token}
end
answer = unfinished(record, ARGV[11])
if answer then
  return answer
end
if judge(KEYS[1], record, now, ARGV[3], ARGV[11], ARGV[12]) and batch then
  note_slice(batch, now, ARGV[3], {state = 'waiting'})
end
local crashes = record.crashes or ''
if crashes ~= '' then
  local _, count = string.gsub(crashes, '\n', '')
  if count >= tonumber(ARGV[10]) and string.sub(crashes, -2) == '1\n' then
    return {'condemned', crashes}
  end
  if ARGV[9] == '0' then
    return {'suspect'}
  end
end

local token = next_token(record, ARGV[1])
write(KEYS[1], record, now, ARGV[3], {
  'hash', ARGV[2], 'kind', ARGV[4], 'attempt', ARGV[5], 'token', token, 'gpu', ARGV[7], 'incarnation', ARGV[8], 'delivery', ARGV[6],
  'alone', ARGV[9],
})
if record.waiting then
  redis.call('HDEL', KEYS[1], 'waiting')
end
-- It did not reach this task.
if record.cancelled then
  redis.call('HDEL', KEYS[1], 'cancelled', 'cancelled_unseen')
end
if batch then
  note_slice(batch, now, ARGV[3], {state = 'running', gpu = ARGV[7]})
end
return {'begun', token}
