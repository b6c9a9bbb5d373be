-- Every GPU that the table knows.
--
-- KEYS  1 what all keys of the pool begin with
-- Returns the GPUs, in no order
return call('ZRANGEBYSCORE', KNOWN, '(' .. string.format('%.0f', now_ms), '+inf')
