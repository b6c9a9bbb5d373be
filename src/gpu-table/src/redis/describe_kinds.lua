-- Hears what kinds do. For a new description beyond the bound the one goes that was told longest ago.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long a description lives after it was last told, ms; 2 most descriptions; then for each 3 `kind version`, 4 the description, as JSON
-- Returns how many descriptions there are
local lives_ms = ARGV[1]
sweep_described(lives_ms)
for i = 3, #ARGV, 2 do
  local place = ARGV[i]
  local first = string.match(call('HGET', DESCRIBED_TOLD, place) or '', '^(%d+) ')
  if not first and call('ZCARD', DESCRIBED) >= tonumber(ARGV[2]) then
    forget_described(call('ZRANGE', DESCRIBED, 0, 0)[1])
  end
  call('ZADD', DESCRIBED, now_ms, place)
  call('HSET', DESCRIBED_TOLD, place, string.format('%.0f ', first or now_ms) .. ARGV[i + 1])
end
call('PEXPIRE', DESCRIBED, lives_ms)
call('PEXPIRE', DESCRIBED_TOLD, lives_ms)
return call('ZCARD', DESCRIBED)
