-- Takes a member out that nobody has begun. A group without members and without a cancel is forgotten.
-- ARGV    offset ms, outcome retention ms, task
-- Returns {'left'}, {'forgotten'}: and so is the group, or {'kept'}: nothing changed.

local now = now_ms(ARGV[1])
local group = read_group(now)
local before = member_of(group, ARGV[3])
if not before or before.state ~= 'waiting' or before.rank ~= 0 then
  return {'kept'}
end
uncount(ARGV[3], before)
redis.call('HDEL', KEYS[2], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[3])
if redis.call('HLEN', KEYS[2]) == 0 and not group.cancelled_at and not group.not_counted then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  return {'forgotten'}
end
change_group(group, now, ARGV[2], {})
return {'left'}
