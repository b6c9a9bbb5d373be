-- Whether the server takes writes: a mark that is gone after a while.
-- KEYS[1] the mark
-- ARGV    how long it lives, in ms
-- Returns {'written'}.

redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return {'written'}
