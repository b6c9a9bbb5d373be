-- Marks the group as cancelled, from now back.
-- ARGV    offset ms, outcome retention ms, most members (not read), 1 if the group may be made
-- Returns {'marked'}, or {'no_group'}: nothing changed.

local now = now_ms(ARGV[1])
local group = read_group(now)
if not group.first_seen and no_room(group, ARGV[3], ARGV[4]) then
  return {'no_group'}
end
change_group(group, now, ARGV[2], { 'cancelled_at', text(now), 'cancels', text(cancels(group) + 1) })
return {'marked'}
