-- The ends of members in the order in which they came. Changes nothing.
-- ARGV    offset ms, number after which they are wanted, most of them
-- Returns {number, id, outcome, number, id, outcome, …}.

local group = read_group(now_ms(ARGV[1]))
local answer = {}
if not group.first_seen then
  return answer
end
local found = redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[3]))
for i = 1, #found, 2 do
  local member = member_of(group, found[i])
  if member then
    answer[#answer + 1] = found[i + 1]
    answer[#answer + 1] = found[i]
    answer[#answer + 1] = member.state
  end
end
return answer
