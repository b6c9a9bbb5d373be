-- The publish was refused: takes `submitted` back, unless anything else was written since. A cancel that reached ahead was there before, and stays.
-- KEYS[1] the task's record
-- Returns {'forgotten'}, or {'kept'}: nothing changed.

if redis.call('HEXISTS', KEYS[1], 'only_submitted') == 0 then
  return {'kept'}
end
if redis.call('HEXISTS', KEYS[1], 'cancelled') == 1 then
  redis.call('HDEL', KEYS[1], 'only_submitted', 'kind', 'hash')
else
  redis.call('DEL', KEYS[1])
end
return {'forgotten'}
