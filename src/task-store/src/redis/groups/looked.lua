-- Somebody has looked whether a group is forgotten. Does nothing where its name was entered again since.
-- KEYS    as of enter.lua
-- ARGV    name, Unix ms as due.lua said it, Unix ms until when nobody need look again ('' if it is forgotten)
-- Returns {'kept'}, {'dropped'} or {'entered'}: nothing changed.

local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return {'entered'}
end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {'dropped'}
end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return {'kept'}
