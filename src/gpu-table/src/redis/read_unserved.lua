-- What workers told of tasks that no living GPU of the pool can run.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long an entry lives after it was last told of, ms
-- Returns for each entry, in no order, {what the tasks ask for, when it was last told of, ms; `first sightings JSON`}
sweep_unserved(ARGV[1])
local entries, found = call('ZRANGE', UNSERVED, 0, -1, 'WITHSCORES'), {}
for i = 1, #entries, 2 do
  local told = call('HGET', UNSERVED_TOLD, entries[i])
  if told then found[#found + 1] = { entries[i], entries[i + 1], told } end
end
return found
