-- Announces a GPU's queue. Announcements do not expire.
-- KEYS[1] the announced GPUs: a hash of GPU -> '<Unix ms> <pool>'
-- ARGV    offset ms, GPU, pool
-- Returns {'written'}.

redis.call('HSET', KEYS[1], ARGV[2], text(now_ms(ARGV[1])) .. ' ' .. ARGV[3])
return {'written'}
