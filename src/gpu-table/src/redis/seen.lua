-- What is known of the worker of one GPU, and for how long workers have been heard of without a gap of a lease.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 held lease, ms; 2 GPU
-- Returns {ms for which the table is steady, 0 if nobody was heard of for a lease; JSON of the living row, nil if there is none}
local beats = call('HMGET', POOL, 'beat', 'steady')
local steady = 0
if beats[1] and now_ms <= beats[1] + ARGV[1] and now_ms >= tonumber(beats[1]) then steady = math.max(now_ms - beats[2], 0) end
local row = call('HMGET', ROW .. ARGV[2], 'expires', 'json')
if row[1] and tonumber(row[1]) > now_ms then return { steady, row[2] } end
return { steady }
