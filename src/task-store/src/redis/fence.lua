-- A token for a task that is to end without a run, above that of every attempt that began: an outcome of theirs is refused from now on.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms, body hash, outcome retention ms, attempt, GPU, incarnation, token of a former holder ('' for none), whether that one is gone (1 or 0)
-- Returns {'fenced', token}, {'ended', ...}, {'reused'} or {'split', ...} as `stands_against` says, {'unwanted'} of a slice, or
--   {'unfinished', token, GPU, incarnation, delivery}   an attempt has no end, and the caller does not say what became of it

local now = now_ms(ARGV[1])
local record, batch, against = read_task(KEYS, now, ARGV[2])
if against and against[1] == 'unwanted' then
  return against
end
against = stands_against(record, ARGV[2], ARGV[4], now)
if against and (against[1] == 'ended' or against[1] == 'reused') then
  return against
end
if record.slices then
  -- Also where it was cancelled: with a token, its one outcome could no longer be recorded without one.
  return split_answer('split', record)
end
local answer = unfinished(record, ARGV[7])
if answer then
  return answer
end
judge(KEYS[1], record, now, ARGV[3], ARGV[7], ARGV[8])
local token = next_token(record, ARGV[1])
write(KEYS[1], record, now, ARGV[3], {
  'hash', ARGV[2], 'attempt', ARGV[4], 'token', token, 'gpu', ARGV[5], 'incarnation', ARGV[6], 'delivery', '0', 'alone', '0', 'settled', token,
})
if batch then
  note_slice(batch, now, ARGV[3], {state = 'waiting'})
end
return {'fenced', token}
