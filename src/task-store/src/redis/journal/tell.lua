-- Steps of tasks that one process tells, packed into entries.
-- KEYS[1] the steps: a stream whose entries have the fields n (how many steps) and s (the steps, a JSON object a line)
-- KEYS[2] how large each entry is, in their order: a list of '<id> <n>'
-- KEYS[3] a hash: steps (how many there are), last_ms and last_seq (of the last id), recent (the names of the last packets, with spaces around each)
-- ARGV    offset ms, most steps, greatest age in ms, the packet's name, then for each entry how many steps it has and its lines
-- Returns {'told'}, or {'known'}: this packet came before; nothing changed.
-- The id of an entry is when it came, by the server's clock. The three keys live and die together: where one is gone, all are.

local now, most, age_max = now_ms(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local steps, last_ms, last_seq, recent = 0, 0, 0, ' '
if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) == 3 then
  local state = redis.call('HMGET', KEYS[3], 'steps', 'last_ms', 'last_seq', 'recent')
  steps, last_ms, last_seq, recent = tonumber(state[1]) or 0, tonumber(state[2]) or 0, tonumber(state[3]) or 0, state[4] or ' '
else
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
end
if string.find(recent, ' ' .. ARGV[4] .. ' ', 1, true) then
  return {'known'}
end

for i = 5, #ARGV, 2 do
  if now > last_ms then
    last_ms, last_seq = now, 0
  else
    last_seq = last_seq + 1
  end
  local id = text(last_ms) .. '-' .. text(last_seq)
  redis.call('XADD', KEYS[1], id, 'n', ARGV[i], 's', ARGV[i + 1])
  redis.call('RPUSH', KEYS[2], id .. ' ' .. ARGV[i])
  steps = steps + tonumber(ARGV[i])
end

-- The oldest entries make way, a bounded number of them a call: more than a call can add, so that they never pile up.
local gone, first = 0, nil
while not first and gone < 1024 do
  local sizes = redis.call('LRANGE', KEYS[2], gone, gone + 15)
  if #sizes == 0 then
    break
  end
  for _, size in ipairs(sizes) do
    local id, ms, n = string.match(size, '^((%d+)%-%d+) (%d+)$')
    if steps <= most and tonumber(ms) >= now - age_max then
      first = id
      break
    end
    steps, gone = steps - tonumber(n), gone + 1
  end
end
if gone > 0 then
  redis.call('LTRIM', KEYS[2], gone, -1)
  first = first or string.match(redis.call('LINDEX', KEYS[2], 0) or '', '^%S+')
  if first then
    redis.call('XTRIM', KEYS[1], 'MINID', first)
  else
    redis.call('DEL', KEYS[1])
  end
end

recent = string.sub(' ' .. ARGV[4] .. recent, 1, 1024)
redis.call('HSET', KEYS[3], 'steps', text(steps), 'last_ms', text(last_ms), 'last_seq', text(last_seq), 'recent', recent)
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
return {'told'}
