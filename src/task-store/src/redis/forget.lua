-- The publish was refused: takes `submitted` back, unless another submit relies on it or anything else was written since. A cancel that reached ahead was there before, and stays.
-- KEYS[1] the task's record
-- Returns {'forgotten'}, or {'kept'}: nothing changed, but that one less relies on it.

local submits = tonumber(redis.call('HGET', KEYS[1], 'only_submitted') or 0)
if submits == 0 then
  return {'kept'}
end
if submits > 1 then
  redis.call('HINCRBY', KEYS[1], 'only_submitted', -1)
  return {'kept'}
end
if redis.call('HEXISTS', KEYS[1], 'cancelled') == 1 then
  redis.call('HDEL', KEYS[1], 'only_submitted', 'kind', 'hash', 'not_before', 'delayed_until', 'group')
else
  redis.call('DEL', KEYS[1])
end
return {'forgotten'}
