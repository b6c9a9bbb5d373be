-- Offers, what workers tell, and the sweeping of what is dead.
--
-- An offer keeps a slot of another worker's GPU free for one task on its way there. It is packed as `gpu strategy fallback requested`: fallback is `-` where there was
-- none, requested (any text, hence last) what the task asked for if there was one. Its deadline is its score in `due`.
local SWEEP = 128 -- how many dead rows and offers one call sweeps at most

-- The offer for a task, dead or alive; nil if there is none.
local function read_offer(task)
  local packed = call('HGET', OFFERS, task)
  if not packed then return nil end
  local gpu, strategy, fallback, requested = string.match(packed, '^(%S+) (%S+) (%S+) (.*)$')
  return { gpu = gpu, strategy = strategy, fallback = fallback, requested = requested }
end

local function write_offer(task, offer, deadline)
  call('HSET', OFFERS, task, table.concat({ offer.gpu, offer.strategy, offer.fallback, offer.requested }, ' '))
  call('ZADD', DUE, deadline, 'o' .. task)
  call('SADD', OFFERED .. offer.gpu, task)
end

-- Forgets an offer. The caller indexes the GPU's row anew.
local function drop_offer(task, gpu)
  call('HDEL', OFFERS, task)
  call('ZREM', DUE, 'o' .. task)
  call('SREM', OFFERED .. gpu, task)
end

-- Ends the offer of a slot of this GPU for this task, if there is one. Whether there was.
local function end_offer(task, gpu)
  local offer = read_offer(task)
  if not offer or offer.gpu ~= gpu then return false end
  drop_offer(task, gpu)
  return true
end

-- Sweeps what is dead by now: the oldest first, so that a flood of dead delays nobody for long.
local function sweep()
  for _, member in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', now_ms, 'LIMIT', 0, SWEEP)) do
    local what, id = string.sub(member, 1, 1), string.sub(member, 2)
    if what == 'r' then
      remove_row(read_row(id) or { id = id })
    else
      local offer = read_offer(id)
      if offer then
        drop_offer(id, offer.gpu)
        local row = read_row(offer.gpu)
        if row then index(row) end
      else
        call('ZREM', DUE, member)
      end
    end
  end
end

-- A worker tells how many slots it holds. It counts for the row of its own incarnation, unless it has told something newer. Whether it counts: the caller writes the row
-- with `write_counts`.
local function hear(row, incarnation, number, slots)
  if not row or row.incarnation ~= incarnation or row.told > tonumber(number) then return false end
  row.held, row.told = tonumber(slots), tonumber(number)
  return true
end

-- Writes what claims and tellings change of a living row, and puts it where it belongs now.
local function write_counts(row)
  call('HSET', ROW .. row.id, 'held', row.held, 'told', row.told, 'sequence', row.sequence, 'sent', row.sent)
  index(row)
end
