-- Renews one held claim; never shortens its lease, never resurrects it.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 task; 2 token; 3 held lease, ms
-- Returns 1 if it is live, held and has this token, else 0
local claim = read_claim(ARGV[1])
if not claim or claim.token ~= ARGV[2] or claim.state ~= 'held' then return 0 end
call('ZADD', DEADLINES, 'GT', now_ms + ARGV[3], ARGV[1])
return 1
