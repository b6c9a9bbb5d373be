-- Forgets what was told of tasks that ask for this.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 what the tasks ask for
-- Returns 1
forget_unserved(ARGV[1])
return 1
