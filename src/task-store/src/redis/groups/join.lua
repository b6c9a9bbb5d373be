-- A producer is about to publish a task of the group.
-- ARGV    offset ms, outcome retention ms, most members, 1 if the group may be made, task, 1 if no task of the id was known
-- Returns {'member'}, {'no_group'} or {'full'}; after the last two nothing changed.

local now = now_ms(ARGV[1])
local group = read_group(now)
local before = member_of(group, ARGV[5])
if before then
  if not ENDED[before.state] or ARGV[6] ~= '1' then
    return {'member'}
  end
else
  local against = no_room(group, ARGV[3], ARGV[4])
  if against then
    return {against}
  end
end
place(group, now, ARGV[2], ARGV[5], before, { state = 'waiting', rank = 0, joined_at = cancels(group) })
return {'member'}
