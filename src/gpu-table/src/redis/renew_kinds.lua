-- Hears that descriptions of kinds still count.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long a description lives after it was last told, ms; 2... the descriptions, each as `kind version`
-- Returns the places in that list, from 0, of those that the table does not have and must be told
local lives_ms, missing = ARGV[1], {}
sweep_described(lives_ms)
for i = 2, #ARGV do
  if call('HEXISTS', DESCRIBED_TOLD, ARGV[i]) == 1 and call('ZSCORE', DESCRIBED, ARGV[i]) then
    call('ZADD', DESCRIBED, now_ms, ARGV[i])
  else
    missing[#missing + 1] = i - 2
  end
end
call('PEXPIRE', DESCRIBED, lives_ms)
call('PEXPIRE', DESCRIBED_TOLD, lives_ms)
return missing
