-- Names of groups that may be forgotten, those first that nobody has looked at for longest. Changes nothing.
-- KEYS    as of enter.lua
-- ARGV    offset ms, most of them
-- Returns {name, Unix ms until when nobody needed to look, name, …}.

return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now_ms(ARGV[1])), 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
