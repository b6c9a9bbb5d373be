-- A point of a history.
-- KEYS[1] the points of its span: a hash of Unix ms -> JSON
-- ARGV    offset ms, how far back the span reaches in ms, most points, the point's Unix ms, its JSON
-- Returns {'noted'}, or nothing changed: {'known'}, there is one of its time; {'not_of_now'}, it is older than the span, or as far ahead.

local now, length, at = now_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
if at <= now - length or at > now + length then
  return {'not_of_now'}
end
if redis.call('HSETNX', KEYS[1], ARGV[4], ARGV[5]) == 0 then
  return {'known'}
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local times = redis.call('HKEYS', KEYS[1])
table.sort(times, function(one, other) return (tonumber(one) or 0) < (tonumber(other) or 0) end)
local over = #times - tonumber(ARGV[3])
for i, time_of in ipairs(times) do
  if i > over and (tonumber(time_of) or 0) > now - length then
    break
  end
  redis.call('HDEL', KEYS[1], time_of)
end
return {'noted'}
