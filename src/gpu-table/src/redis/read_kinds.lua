-- What workers say that kinds do.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long a description lives after it was last told, ms
-- Returns for each description, in no order, `first JSON`: when it came up, ms, and the description
sweep_described(ARGV[1])
local found = {}
for _, place in ipairs(call('ZRANGE', DESCRIBED, 0, -1)) do
  local told = call('HGET', DESCRIBED_TOLD, place)
  if told then found[#found + 1] = told end
end
return found
