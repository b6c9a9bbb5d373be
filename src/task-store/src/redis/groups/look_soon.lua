-- A group may be forgotten: whoever looks next is to look at it.
-- KEYS    as of enter.lua
-- ARGV    name
-- Returns {'noted'}.

redis.call('ZADD', KEYS[2], 'XX', 0, ARGV[1])
return {'noted'}
