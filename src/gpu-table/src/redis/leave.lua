-- Removes a GPU's row at a clean stop; offers to it end.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 GPU; 2 incarnation
-- Returns 1 if the row was this incarnation's, else 0
local row = read_row(ARGV[1])
if not row or row.incarnation ~= ARGV[2] then return 0 end
remove_row(row)
return 1
