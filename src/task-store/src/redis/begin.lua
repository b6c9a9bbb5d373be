-- An attempt begins, unless the task ended, was cancelled, a higher token began, or its crashes stand against it.
-- KEYS[1] the task's record   KEYS[2] its reply
-- ARGV    offset ms, body hash, outcome retention ms, kind, attempt, token, GPU, incarnation, alone (1 or 0), most crashes,
--         token of a former holder ('' for none), whether that one is gone (1 or 0)
-- Returns {'begun'} (also if this token had begun), {'superseded'}, what `stands_against` says, or
--   {'unfinished', token, GPU, incarnation}   another incarnation's attempt has no end, and the caller does not say what became of it
--   {'suspect'}                               it crashed before and is to run alone
--   {'condemned', crashes}                    its crashes are used up

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
local answer = stands_against(record, KEYS[2], ARGV[2], ARGV[5], now)
if answer then
  return answer
end
if record.token and tonumber(record.token) > tonumber(ARGV[6]) then
  return {'superseded'}
end

local crashes = record.crashes or ''
if runs(record) and record.incarnation ~= ARGV[8] and record.token ~= ARGV[11] then
  return {'unfinished', record.token, record.gpu, record.incarnation}
end
if runs(record) and record.token == ARGV[11] then
  local judged = {'settled', record.token}
  if ARGV[12] == '1' then
    crashes = crashes .. record.attempt .. ' ' .. record.gpu .. ' ' .. text(now) .. ' ' .. (record.alone or '0') .. '\n'
    judged[3], judged[4] = 'crashes', crashes
  end
  write(KEYS[1], record, now, ARGV[3], judged)
  record.settled = record.token
end
if crashes ~= '' then
  local _, count = string.gsub(crashes, '\n', '')
  if count >= tonumber(ARGV[10]) and string.sub(crashes, -2) == '1\n' then
    return {'condemned', crashes}
  end
  if ARGV[9] == '0' then
    return {'suspect'}
  end
end

write(KEYS[1], record, now, ARGV[3], {
  'hash', ARGV[2], 'kind', ARGV[4], 'attempt', ARGV[5], 'token', ARGV[6], 'gpu', ARGV[7], 'incarnation', ARGV[8], 'alone', ARGV[9],
})
if record.waiting or record.settled == ARGV[6] then
  redis.call('HDEL', KEYS[1], 'waiting', 'settled')
end
return {'begun'}
