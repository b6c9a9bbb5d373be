-- Names of groups, those that were made last first. Changes nothing.
-- KEYS    as of enter.lua
-- ARGV    name after which they are wanted ('' for the first), most of them
-- Returns {'names', name, …}, or {'lost'}: the name that was given is not in the list.

local begin = 0
if ARGV[1] ~= '' then
  local rank = redis.call('ZREVRANK', KEYS[1], ARGV[1])
  if not rank then
    return {'lost'}
  end
  begin = rank + 1
end
local answer = {'names'}
if tonumber(ARGV[2]) > 0 then
  for _, name in ipairs(redis.call('ZREVRANGE', KEYS[1], begin, begin + tonumber(ARGV[2]) - 1)) do
    answer[#answer + 1] = name
  end
end
return answer
