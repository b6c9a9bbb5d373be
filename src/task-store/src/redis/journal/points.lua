-- The points of a history.
-- KEYS[1] as in `note_point`
-- ARGV    offset ms, how far back the span reaches in ms, from which Unix ms on
-- Returns the JSON of each, in any order.

local from = math.max(tonumber(ARGV[3]), now_ms(ARGV[1]) - tonumber(ARGV[2]) + 1)
local pairs_of, points = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #pairs_of, 2 do
  if (tonumber(pairs_of[i]) or 0) >= from then
    points[#points + 1] = pairs_of[i + 1]
  end
end
return points
