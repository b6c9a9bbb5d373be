-- Forgets a task that ended, so that it can be published again.
-- KEYS[1] the task's record   KEYS[2] its reply   and where the answer before was `slices`: KEYS[3] its results, KEYS[4] and so on its slices' records
-- ARGV    offset ms, body hash
-- Returns {'open'}        forgotten, or never known; of a batch that was split with what `results_of` says of what no longer takes room
--         {'slices', names}   ask again with their keys; nothing changed
--         {'not_ended'}   nothing changed
--         {'reused'}      the id belongs to a task with another body; nothing changed

local record = read(KEYS[1], now_ms(ARGV[1]))
if not record.first_seen then
  return {'open'}
end
if record.hash and record.hash ~= ARGV[2] then
  return {'reused'}
end
if not record.outcome then
  return {'not_ended'}
end
if record.slices and #KEYS == 2 then
  return {'slices', record.slices}
end
redis.call('DEL', unpack(KEYS))
return record.slices and {'open', results_of(record)} or {'open'}
