-- The fleet's settings. Writes nothing.
--
-- KEYS  1 what all keys of the pool begin with
-- Returns the JSON of the settings in force; nil if there are none
return call('HGET', POOL, 'json')
