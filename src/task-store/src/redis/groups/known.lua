-- How many groups are in the list. Changes nothing.
-- KEYS    as of enter.lua
-- Returns {how many}.

return { text(redis.call('ZCARD', KEYS[1])) }
