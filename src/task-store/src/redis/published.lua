-- The reply was published. The first time is noted; the record's expiry stays. On the way of every task, so it reads no more than it must.
-- KEYS[1] the task's record
-- ARGV    offset ms (not used), to whom
-- Returns {'noted'}, or {'kept'}: noted before, or nothing recorded; nothing changed.

if redis.call('HEXISTS', KEYS[1], 'outcome') == 1 and redis.call('HSETNX', KEYS[1], 'published', ARGV[2]) == 1 then
  return {'noted'}
end
return {'kept'}
