-- Whether the server takes writes: a mark that is gone after a while.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long the mark lives, in ms
-- Returns 1
call('SET', slots .. 'probe', '1', 'PX', ARGV[1])
return 1
