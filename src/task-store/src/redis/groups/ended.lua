-- A task of the group ended. It becomes a member if it was none.
-- ARGV    offset ms, outcome retention ms, most members, 1 if the group may be made, task, outcome
-- Returns {'counted'}    also if it had ended before; then nothing changed
--         {'full'}       it is no member, and that it was not counted is
--         {'no_group'}   nothing changed

local now = now_ms(ARGV[1])
local group = read_group(now)
local before = member_of(group, ARGV[5])
if before and ENDED[before.state] then
  return {'counted'}
end
local joined_at = cancels(group)
if before then
  joined_at = before.joined_at
else
  local against = no_room(group, ARGV[3], ARGV[4])
  if against == 'full' then
    change_group(group, now, ARGV[2], { 'not_counted', text(tonumber(group.not_counted or 0) + 1) })
  end
  if against then
    return {against}
  end
end
place(group, now, ARGV[2], ARGV[5], before, { state = ARGV[6], rank = 0, joined_at = joined_at })
return {'counted'}
