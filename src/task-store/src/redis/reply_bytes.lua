-- Adds what one client kept since it last asked, and sums what all clients kept within the retention.
--
-- Bytes are counted in buckets of time. A bucket leaves the sum when the youngest reply in it has expired, so the sum errs by at most one
-- bucket's width, upwards. It is an estimate: a client that dies takes with it what it counted in its last second.
-- Results of slices are counted in the same way under a key of their own, since they are kept longer; once their batch is merged, they are taken out of the bucket that they were
-- added to.
-- KEYS[1] the counts: a hash of bucket number -> bytes, and `not_kept` -> replies whose body the bound refused
-- ARGV    offset ms, retention ms, bucket width ms, bytes to add now, replies not kept to add, then for other buckets: its number, bytes to add (below 0: to take out)
-- Returns {bytes, replies not kept}, both as text.

local now = now_ms(ARGV[1])
local retention, width = tonumber(ARGV[2]), tonumber(ARGV[3])
if tonumber(ARGV[4]) > 0 then
  redis.call('HINCRBY', KEYS[1], text(math.floor(now / width)), ARGV[4])
end
if tonumber(ARGV[5]) > 0 then
  redis.call('HINCRBY', KEYS[1], 'not_kept', ARGV[5])
end
for i = 6, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
local counts = redis.call('HGETALL', KEYS[1])
local bytes, not_kept = 0, '0'
for i = 1, #counts, 2 do
  if counts[i] == 'not_kept' then
    not_kept = counts[i + 1]
  elseif (tonumber(counts[i]) + 1) * width + retention <= now or counts[i + 1] == '0' then
    redis.call('HDEL', KEYS[1], counts[i])
  else
    -- Below 0 where who took out has told it sooner than who added.
    bytes = bytes + math.max(tonumber(counts[i + 1]), 0)
  end
end
return {text(bytes), not_kept}
