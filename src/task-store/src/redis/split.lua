-- Splits a batch, in place of its beginning, unless something stands against that. What was recorded first stays.
-- KEYS[1] the batch's record
-- ARGV    offset ms, body hash, outcome retention ms, kind, attempt, Unix second in which it was published ('' if not known),
--         its slices' names in order, with spaces between ('' where they are no cut of it), how many items it has
-- Returns {'split', ...} as `split_answer` says it, what else `stands_against` says, or {'whole'}: an attempt of it began, or there is no cut; nothing changed.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
local answer = stands_against(record, ARGV[2], ARGV[5], now, ARGV[6])
if answer then
  return answer
end
if record.token or ARGV[7] == '' then
  return {'whole'}
end
record.hash, record.split_attempt, record.split_token = ARGV[2], ARGV[5], next_token(record, ARGV[1])
local fields = {
  'hash', ARGV[2], 'kind', ARGV[4], 'split_attempt', ARGV[5], 'split_token', record.split_token, 'slices', ARGV[7], 'items', ARGV[8], 'items_done', '0', 'items_failed', '0',
}
record.slices = ARGV[7]
for name in string.gmatch(ARGV[7], '%S+') do
  record['slice:' .. name] = 'waiting 0 0 0 0'
  fields[#fields + 1], fields[#fields + 2] = 'slice:' .. name, record['slice:' .. name]
end
write(KEYS[1], record, now, ARGV[3], fields)
-- A cancel that is there did not reach this task.
redis.call('HDEL', KEYS[1], 'waiting', 'cancelled', 'cancelled_unseen')
return split_answer('split', record)
