-- The fleet's settings; the given ones are written if there are none.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  the fields of settings.lua
-- Returns the JSON of the settings in force
if call('HEXISTS', POOL, 'json') == 0 then write_settings(ARGV, ARGV[1]) end
return call('HGET', POOL, 'json')
