-- Takes an announcement back, unless it was repeated after the caller read it.
-- KEYS[1] the announced GPUs (see announce.lua)
-- ARGV    GPU, Unix ms of the announcement that the caller read
-- Returns {'withdrawn'}, or {'kept'}: repeated since, or not there; nothing changed.

local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and tonumber(string.match(known, '^%d+')) <= tonumber(ARGV[2]) then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return {'withdrawn'}
end
return {'kept'}
