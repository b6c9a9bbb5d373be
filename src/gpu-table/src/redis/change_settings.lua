-- Replaces the settings if nobody was faster.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  the version that the change is based on, then the fields of settings.lua, their version grown by one
-- Returns the JSON of the settings in force
sweep()
local version = call('HGET', POOL, 'version')
if not version or version == ARGV[1] then
  table.remove(ARGV, 1)
  write_settings(ARGV, ARGV[1])
end
return call('HGET', POOL, 'json')
