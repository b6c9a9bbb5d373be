-- Which slices of a batch have results that are kept. Changes nothing.
-- KEYS[1] the batch's record
-- ARGV    offset ms, the first item of interest
-- Returns for each slice that has ended and has items from that one on, in order: its name and the bytes of its results, with a space between.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
local answer = {}
if record.results_until and tonumber(record.results_until) <= now then
  return answer
end
for name in string.gmatch(record.slices or '', '%S+') do
  local bytes = string.match(record['slice:' .. name], '^ended %d+ %d+ (%d+)')
  if bytes and tonumber(string.match(name, '%d+$')) > tonumber(ARGV[2]) then
    answer[#answer + 1] = name .. ' ' .. bytes
  end
end
return answer
