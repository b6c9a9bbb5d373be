-- For how long workers have been heard of without a gap of a lease.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 held lease, ms
-- Returns ms; 0 if none was heard of for a lease
local beats = call('HMGET', POOL, 'beat', 'steady')
if not beats[1] or now_ms > beats[1] + ARGV[1] or now_ms < tonumber(beats[1]) then return 0 end
return math.max(now_ms - beats[2], 0)
