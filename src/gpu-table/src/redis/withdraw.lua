-- Takes an offer back.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 task; 2 the GPU that it was made to
-- Returns 1 if it stood, else 0
if not end_offer(ARGV[1], ARGV[2]) then return 0 end
local row = read_row(ARGV[2])
if row then index(row) end
return 1
