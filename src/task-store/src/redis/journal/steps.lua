-- The steps after a cursor.
-- KEYS[1] and KEYS[2]: the first and the third key of `tell`
-- ARGV    offset ms, greatest age in ms, cursor ('<ms>-<seq>' of the last entry that was read; '' for the beginning), most steps: whole entries, until there are as many
-- Returns {cursor to go on with, '1' if there are more or '', the lines of one entry, those of the next one, ...}

local oldest = text(math.max(0, now_ms(ARGV[1]) - tonumber(ARGV[2])))
local from, cursor = oldest, ARGV[3]
local ms, seq = string.match(cursor, '^(%d+)%-(%d+)$')
if ms then
  local last = redis.call('HMGET', KEYS[2], 'last_ms', 'last_seq')
  local last_ms, last_seq = tonumber(last[1]), tonumber(last[2])
  ms, seq = tonumber(ms), tonumber(seq)
  -- A cursor ahead of all steps is one of before the server lost them and its clock was set back: then it begins anew.
  local ahead = last_ms and last_seq and (ms > last_ms or ms == last_ms and seq > last_seq)
  if not ahead and ms >= tonumber(oldest) then
    from = '(' .. text(ms) .. '-' .. text(seq)
  elseif ahead and ms <= now_ms(ARGV[1]) then
    return { cursor, '' }
  end
end

local CHUNK = 16
local most, steps, more, answer = tonumber(ARGV[4]), 0, false, { cursor, '' }
local function take(entry)
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 's' then
      answer[#answer + 1] = fields[i + 1]
    elseif fields[i] == 'n' then
      steps = steps + (tonumber(fields[i + 1]) or 1)
    end
  end
  from = '(' .. entry[1]
  local entry_ms, entry_seq = string.match(entry[1], '^(%d+)%-(%d+)$')
  -- Cursors grow as texts.
  answer[1] = string.format('%015.0f-%09.0f', tonumber(entry_ms), tonumber(entry_seq))
end
repeat
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', CHUNK + 1)
  more = #entries > CHUNK
  for i = 1, math.min(#entries, CHUNK) do
    take(entries[i])
    if steps >= most then
      more = i < #entries
      break
    end
  end
until steps >= most or not more
answer[2] = more and '1' or ''
return answer
