-- Forgets the slices of a batch that has ended; its results as well, or these after a while.
-- KEYS[1] the batch's record, and where the answer before was `slices`: KEYS[2] its results, KEYS[3] and so on its slices' records
-- ARGV    offset ms, for how many ms the results can be read from now on (0: not at all)
-- Returns {'kept'}            it has not ended, was not split, or its slices are forgotten; nothing changed
--         {'slices', names}   ask again with their keys; nothing changed
--         {'forgotten', ...}  as `results_of` says it, of what no longer takes room

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
if not record.outcome or not record.slices then
  return {'kept'}
end
if #KEYS == 1 then
  return {'slices', record.slices}
end
local freed = results_of(record)
redis.call('DEL', unpack(KEYS, 3))
if tonumber(ARGV[2]) > 0 then
  if not record.results_until then
    redis.call('HSET', KEYS[1], 'results_until', text(now + ARGV[2]))
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
  return {'forgotten', freed}
end
redis.call('DEL', KEYS[2])
local fields = {'slices', 'items', 'items_done', 'items_failed', 'results_until'}
for name in string.gmatch(record.slices, '%S+') do
  fields[#fields + 1] = 'slice:' .. name
end
redis.call('HDEL', KEYS[1], unpack(fields))
return {'forgotten', freed}
