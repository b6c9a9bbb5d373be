-- Some members, by id. Changes nothing, and looks at a bounded number of them.
-- ARGV    offset ms, state ('' for any), 1 if only those that the last cancel counts for, after which id ('' for the first), most members, most to look at
-- Returns {} if the group is not known, else {after which id the next page begins or '', id, state, id, state, …}.

local group = read_group(now_ms(ARGV[1]))
if not group.first_seen then
  return {}
end
local begin = ARGV[4] == '' and '-' or '(' .. ARGV[4]
local most, look_at = tonumber(ARGV[5]), tonumber(ARGV[6])
-- One more than is looked at tells whether there are others.
local ids = redis.call('ZRANGEBYLEX', KEYS[3], begin, '+', 'LIMIT', 0, look_at + 1)
if #ids == 0 then
  return {''}
end
local texts = redis.call('HMGET', KEYS[2], unpack(ids))
local answer, found = {''}, 0
for i = 1, math.min(#ids, look_at) do
  local state, _, joined_at = string.match(texts[i] or '', '^(%a+) (%d+) (%d+)$')
  if state and (ARGV[2] == '' or ARGV[2] == state) and (ARGV[3] ~= '1' or tonumber(joined_at) < cancels(group)) then
    answer[#answer + 1] = ids[i]
    answer[#answer + 1] = state
    found = found + 1
  end
  if found == most or i == look_at then
    answer[1] = i < #ids and ids[i] or ''
    break
  end
end
return answer
