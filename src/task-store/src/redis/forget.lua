-- The publish was refused: takes `submitted` back, unless anything else was written since.
-- KEYS[1] the task's record
-- Returns {'forgotten'}, or {'kept'}: nothing changed.

if redis.call('HEXISTS', KEYS[1], 'only_submitted') == 1 then
  redis.call('DEL', KEYS[1])
  return {'forgotten'}
end
return {'kept'}
