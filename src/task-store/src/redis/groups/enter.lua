-- Enters the name of a group in the list of groups. It stands there until somebody finds that the group is forgotten.
-- KEYS[1] the list: a sorted set of name -> Unix ms when it was made   KEYS[2] a sorted set of name -> Unix ms until when nobody need look whether it is forgotten
-- ARGV    offset ms, outcome retention ms, most groups, name
-- Returns {'entered'}, or {'full'}: nothing changed.

local now = now_ms(ARGV[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[4]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return {'full'}
end
redis.call('ZADD', KEYS[1], text(now), ARGV[4])
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[2])), ARGV[4])
return {'entered'}
