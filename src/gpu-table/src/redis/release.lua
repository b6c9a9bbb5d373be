-- Releases a claim.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 task; 2 token
-- Returns 1 if it was live with this token, else 0
sweep()
return release(ARGV[1], ARGV[2])
