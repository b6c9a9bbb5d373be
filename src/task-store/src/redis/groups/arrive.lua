-- A worker has a delivery of a task of the group in hand.
-- ARGV    offset ms, outcome retention ms, most members, 1 if the group may be made, task, Unix second in which it was published ('' if not known)
-- Returns {'open'}        nothing stands against running it; it is a member, unless the group is full
--         {'cancelled'}   a cancel of the group counts for it
--         {'no_group'}    nothing changed

local now = now_ms(ARGV[1])
local group = read_group(now)
local before = member_of(group, ARGV[5])
if before then
  return { not ENDED[before.state] and before.joined_at < cancels(group) and 'cancelled' or 'open' }
end
local against = no_room(group, ARGV[3], ARGV[4])
if against == 'no_group' then
  return {against}
end
local reached = is_cancelled({ cancelled = group.cancelled_at, cancelled_unseen = '1' }, ARGV[6], now)
if not against then
  local joined_at = cancels(group)
  if reached then
    joined_at = joined_at - 1
  end
  place(group, now, ARGV[2], ARGV[5], nil, { state = 'waiting', rank = 0, joined_at = joined_at })
end
return { reached and 'cancelled' or 'open' }
