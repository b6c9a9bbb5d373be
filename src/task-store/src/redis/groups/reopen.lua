-- A member that ended is about to be published again. A cancel that came before does not count for it.
-- ARGV    offset ms, outcome retention ms, task
-- Returns {'waits'}, or {'kept'}: it is no member, or has not ended; nothing changed.

local now = now_ms(ARGV[1])
local group = read_group(now)
local before = member_of(group, ARGV[3])
if not before or not ENDED[before.state] then
  return {'kept'}
end
place(group, now, ARGV[2], ARGV[3], before, { state = 'waiting', rank = 0, joined_at = cancels(group) })
return {'waits'}
