-- What an operator did.
-- KEYS[1] the actions, the latest first: a list of JSON
-- ARGV    most actions, how long the list is kept from now on in ms, JSON
-- Returns {'noted'}. The same action twice in a row is one: it may have come before its answer got lost.

if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[3] then
  redis.call('LPUSH', KEYS[1], ARGV[3])
  redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[1]) - 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'noted'}
