-- An attempt of a member began, or failed and is to be followed by another one.
-- ARGV    offset ms, outcome retention ms, task, state, rank
-- Returns {'noted'}, or {'kept'}: no member, a later note came before, or it ended; nothing changed.

local now = now_ms(ARGV[1])
local group = read_group(now)
local before = member_of(group, ARGV[3])
if not before or ENDED[before.state] or tonumber(ARGV[5]) <= before.rank then
  return {'kept'}
end
place(group, now, ARGV[2], ARGV[3], before, { state = ARGV[4], rank = tonumber(ARGV[5]), joined_at = before.joined_at })
return {'noted'}
