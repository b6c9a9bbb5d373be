-- Hears how many slots a worker holds, and which offers it has taken.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 GPU; 2 incarnation; 3 slots held; 4 number of the telling; then the tasks whose offers were taken
-- Returns 1 if the number counted, 0 if there is no row of this incarnation or something newer was told
local row = read_row(ARGV[1])
if not row or not row.alive or row.incarnation ~= ARGV[2] then return 0 end
local counts = hear(row, ARGV[2], ARGV[4], ARGV[3])
-- Even if it is heard late: what has arrived is not on its way any more.
for i = 5, #ARGV do end_offer(ARGV[i], ARGV[1]) end
if counts or #ARGV > 4 then write_counts(row) end
return counts and 1 or 0
