-- Adds what one client kept since it last asked, and sums what all clients kept within the retention.
--
-- Bytes are counted in buckets of time. A bucket leaves the sum when the youngest reply in it has expired, so the sum errs by at most one
-- bucket's width, upwards. It is an estimate: a client that dies takes with it what it counted in its last second.
-- KEYS[1] the counts: a hash of bucket number -> bytes, and `not_kept` -> replies whose body the bound refused
-- ARGV    offset ms, reply retention ms, bucket width ms, bytes to add, replies not kept to add
-- Returns {bytes, replies not kept}, both as text.

local now = now_ms(ARGV[1])
local retention, width = tonumber(ARGV[2]), tonumber(ARGV[3])
if tonumber(ARGV[4]) > 0 then
  redis.call('HINCRBY', KEYS[1], text(math.floor(now / width)), ARGV[4])
end
if tonumber(ARGV[5]) > 0 then
  redis.call('HINCRBY', KEYS[1], 'not_kept', ARGV[5])
end
local counts = redis.call('HGETALL', KEYS[1])
local bytes, not_kept = 0, '0'
for i = 1, #counts, 2 do
  if counts[i] == 'not_kept' then
    not_kept = counts[i + 1]
  elseif (tonumber(counts[i]) + 1) * width + retention <= now then
    redis.call('HDEL', KEYS[1], counts[i])
  else
    bytes = bytes + tonumber(counts[i + 1])
  end
end
return {text(bytes), not_kept}
