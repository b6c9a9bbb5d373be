-- Records how a slice ended, and keeps its results with those of its batch. The first record is final.
-- KEYS[1] the slice's record   KEYS[2] its batch's record   KEYS[3] its batch's results
-- ARGV    offset ms, body hash, outcome retention ms, kind, outcome, attempt, token ('' if it never ran), digest of the results, items that failed,
--         how many bytes the results have ('' where there is no room for them), results
-- Returns {'recorded', ...} as `split_answer` says it of the batch as it is now, with Unix ms where the results were written by this call
--         {'superseded'}  an attempt that this one does not outrank began, or the record is of a body with another hash; nothing changed
--         {'unwanted'}    its batch wants nothing of it; nothing changed
--         {'no_room'}     nothing changed

local now = now_ms(ARGV[1])
local record, batch = read_task(KEYS, now, ARGV[2])
if not batch.wanted then
  return {'unwanted'}
end
if record.hash and record.hash ~= ARGV[2] then
  return {'superseded'}
end
if batch.state == 'ended' then
  return split_answer('recorded', read(KEYS[2], now))
end
if is_late(record, ARGV[6], ARGV[7]) then
  return {'superseded'}
end
if ARGV[10] == '' then
  return {'no_room'}
end

write(KEYS[1], record, now, ARGV[3], {
  'hash', ARGV[2], 'kind', ARGV[4], 'outcome', ARGV[5], 'ended_attempt', ARGV[6], 'ended_token', ARGV[7], 'digest', ARGV[8], 'reply_until', '0',
})
if record.waiting then
  redis.call('HDEL', KEYS[1], 'waiting')
end
redis.call('HSET', KEYS[3], batch.name, ARGV[11])
redis.call('PEXPIRE', KEYS[3], text(math.floor(ARGV[3] * 9 / 8)))
note_slice(batch, now, ARGV[3], {state = 'ended', done = batch.size, failed = math.min(ARGV[9], batch.size), bytes = ARGV[10], ended = text(now)})
local answer = split_answer('recorded', read(KEYS[2], now))
answer[6] = text(now)
return answer
