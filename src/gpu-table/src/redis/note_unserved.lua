-- Notes that a worker has found tasks that no living GPU of the pool can run. For a new entry beyond the bound the one goes that was told of longest ago.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long an entry lives after it was last told of, ms; 2 most entries; 3 what the tasks ask for; 4 how often the worker has found such a task since
--       it told last; 5 what else it tells, as JSON
-- Returns how many entries there are
local lives_ms, wanted = ARGV[1], ARGV[3]
sweep_unserved(lives_ms)
local first, sightings = string.match(call('HGET', UNSERVED_TOLD, wanted) or '', '^(%d+) (%d+) ')
if not first and call('ZCARD', UNSERVED) >= tonumber(ARGV[2]) then
  forget_unserved(call('ZRANGE', UNSERVED, 0, 0)[1])
end
local told = string.format('%.0f %.0f ', first or now_ms, (sightings or 0) + ARGV[4]) .. ARGV[5]
call('ZADD', UNSERVED, now_ms, wanted)
call('HSET', UNSERVED_TOLD, wanted, told)
call('PEXPIRE', UNSERVED, lives_ms)
call('PEXPIRE', UNSERVED_TOLD, lives_ms)
return call('ZCARD', UNSERVED)
