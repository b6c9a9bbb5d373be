-- The strategies: which of the eligible GPUs with a free slot a claim takes, and where a task waits if there is none.
--
-- Only the heads of the classes' indexes are looked at, so the cost grows with the number of classes, not of GPUs. The asking GPU is judged by its row alone: its worker has
-- just told how many slots it holds, which the indexes do not know yet. So is each GPU that has some of the task's data: all others weigh the same. `wanted` is the claim's request: kind, capability,
-- memory (nil if not needed), model (nil if none), data (nil if none), asker, has_own_slot; `pool` has the settings. `data` says what it takes to bring the task's data to a GPU, in us: `at`, GPU -> us, and
-- `elsewhere_us`, more than each of these. `order` is a strategy's order: strategy; data, or nil if it does not count; load_us, what it takes to load the model, nil where that is not known.
local LOOKS = 64 -- how many GPUs of one class are looked at for one that has the memory now
local US_MAX = 1e12 -- more than this counts as no more

-- The classes whose GPUs fit, each with its memory and capability.
local function fits(class, wanted, pool)
  local capability, total, kinds = read_class(class)
  if not string.find(kinds, ',' .. wanted.kind .. ',', 1, true) or capability < wanted.capability then return nil end
  local usable = total * pool.memory
  if wanted.memory and usable < wanted.memory then return nil end
  return { name = class, total = total, usable = usable, capability = capability }
end

local function fitting_classes(wanted, pool)
  local found = {}
  for _, name in ipairs(call('SMEMBERS', CLASSES)) do
    local class = fits(name, wanted, pool)
    if class then found[#found + 1] = class end
  end
  return found
end

-- `usable`: the memory up to which tasks may use a GPU, whoever uses it.
local function has_memory(used, usable, wanted)
  return not wanted.memory or used + wanted.memory <= usable
end

-- Byte order, which `<` on strings is not in every locale.
local function is_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Whether candidate a stands before b: by rank, then by id.
local function is_better(a, b)
  if not b then return true end
  for i = 1, #a.rank do
    if a.rank[i] ~= b.rank[i] then return a.rank[i] < b.rank[i] end
  end
  return is_before(a.id, b.id)
end

-- The first GPU of an index, other than the asking one, that has the memory now, and its score.
local function head(key, usable, wanted)
  for from = 0, LOOKS - 1, 16 do
    local page = call('ZRANGE', key, from, wanted.memory and from + 15 or from + 1, 'WITHSCORES')
    for i = 1, #page, 2 do
      local id = page[i]
      if id ~= wanted.asker and (not wanted.memory or has_memory(tonumber(call('HGET', ROW .. id, 'used')), usable, wanted)) then
        return id, tonumber(page[i + 1])
      end
    end
    if #page < 32 then return nil end
  end
end

-- What it takes to bring the task's data to a GPU, in us.
local function data_us(data, id)
  return data and (data.at[id] or data.elsewhere_us) or 0
end

-- Where a GPU stands that was claimed at this turn.
local function turn_rank(order, id, sequence)
  return { id = id, rank = { sequence, data_us(order.data, id) } }
end

-- Where a GPU with this load stands: data and model soonest there, best fit, then least loaded; or least loaded, then data soonest there.
local function load_rank(order, wanted, class, id, score, loaded)
  local share_percent, us = floor(score / SEQUENCES), data_us(order.data, id)
  local share, percent, elsewhere = floor(share_percent / PERCENTS), share_percent % PERCENTS, id == wanted.asker and 0 or 1
  if order.strategy ~= 'task_specific' then return { id = id, rank = { share, us, elsewhere, percent, score % SEQUENCES } } end
  local not_loaded = wanted.model and not loaded
  local unknown, cost_us = not_loaded and not order.load_us, us + (not_loaded and order.load_us or 0)
  local memory, capability = wanted.memory and class.total or 0, wanted.capability >= 0 and class.capability or 0
  return { id = id, rank = { unknown and 1 or 0, cost_us, not_loaded and 1 or 0, memory, capability, share, elsewhere, percent, score % SEQUENCES } }
end

-- The first of one class, of those whose data weigh the same.
local function first_of(class, order, wanted)
  if order.strategy == 'round_robin' then
    local id, score = head(TURN .. class.name, class.usable, wanted)
    return id and turn_rank(order, id, score)
  end
  if order.strategy == 'task_specific' and wanted.model then
    local id, score = head(MODEL .. class.name .. ':' .. wanted.model, class.usable, wanted)
    if id then return load_rank(order, wanted, class, id, score, true) end
  end
  local id, score = head(LOAD .. class.name, class.usable, wanted)
  return id and load_rank(order, wanted, class, id, score, false)
end

local function has_model(row, model)
  for _, loaded in ipairs(models_of(row)) do
    if loaded == model then return true end
  end
  return false
end

-- Whether a living row that fits has slot and memory now, and is under the thresholds. The asking GPU needs a slot of its own for the task.
local function has_room(row, class, wanted)
  return row.within and has_memory(row.used, class.usable, wanted) and (wanted.has_own_slot or row.id ~= wanted.asker) and taken_slots(row) < row.slots
end

-- The class of a living row that takes tasks and fits; nil if it does not.
local function open_class(row, wanted, pool)
  return row.ready and row.consuming and fits(row.class, wanted, pool) or nil
end

-- A living row as a candidate; nil unless it is free.
local function by_row(row, order, wanted, pool)
  local class = open_class(row, wanted, pool)
  if not class or not has_room(row, class, wanted) then return nil end
  if order.strategy == 'round_robin' then return turn_rank(order, row.id, row.sequence) end
  return load_rank(order, wanted, class, row.id, load_score(row), wanted.model and has_model(row, wanted.model))
end

-- The living rows, other than the asking GPU's, that have some of the task's data. Each is read once.
local function rows_with_data(wanted)
  local data, rows = wanted.data, {}
  if not data then return rows end
  if data.rows then return data.rows end
  for id in pairs(data.at) do
    local row = id ~= wanted.asker and read_row(id)
    if row and row.alive then rows[#rows + 1] = row end
  end
  data.rows = rows
  return rows
end

-- The best of these candidates that is alive, as a row; the dead are removed on the way. `own` is the asker's row, or nil.
local function best_alive(candidates, own)
  while true do
    local best
    for _, candidate in pairs(candidates()) do
      if is_better(candidate, best) then best = candidate end
    end
    if not best then return nil end
    local row = own and best.id == own.id and own or read_row(best.id)
    -- A server that evicts keys may have taken the row and left its place in the index: its next heartbeat mends that.
    if not row or row.alive then return row end
    remove_row(row)
  end
end

-- The row that an order puts first; nil if none is free. `own` is the asker's row, or nil.
local function first(order, wanted, pool, own)
  return best_alive(function()
    local found = {}
    for _, class in ipairs(fitting_classes(wanted, pool)) do
      found[#found + 1] = first_of(class, order, wanted) or nil
    end
    if order.data then
      for _, row in ipairs(rows_with_data(wanted)) do found[#found + 1] = by_row(row, order, wanted, pool) end
    end
    found[#found + 1] = own and by_row(own, order, wanted, pool)
    return found
  end, own)
end

-- What was learnt of the loads and the runs of a row: it is in its JSON, which is read only where it is needed.
local function learnt(row)
  row.learnt = row.learnt or cjson.decode(call('HGET', ROW .. row.id, 'json'))
  return row.learnt
end

-- What a load of the task's model takes, as a row knows it, in ms; nil where none is asked for and where it is not known.
local function load_ms(row, wanted)
  return wanted.model and tonumber((learnt(row).load_ms or {})[wanted.model])
end

-- What a load of the task's model takes, in us; nil where that is not known or no matter.
local function load_us(strategy, wanted, pool, own)
  if not wanted.data or not wanted.model or strategy ~= 'task_specific' then return nil end
  -- If any free GPU has the model, this one has, and knows what it takes to load it. If none has, that is the same for all.
  local without_data = first({ strategy = strategy }, wanted, pool, own)
  local ms = without_data and load_ms(without_data, wanted)
  return ms and math.min(floor(ms * 1000 + 0.5), US_MAX)
end

-- The row that the strategy puts first; nil if none is free. `own` is the asker's row, or nil.
local function choose(strategy, wanted, pool, own)
  return first({ strategy = strategy, data = wanted.data, load_us = load_us(strategy, wanted, pool, own) }, wanted, pool, own)
end

-- The fitting row with the least work, claimed longest ago; nil if no task can wait anywhere. Never the asking GPU's: it is asked for only where the task does not fit there.
local function least_work(wanted, pool)
  return best_alive(function()
    local found = {}
    for _, class in ipairs(fitting_classes(wanted, pool)) do
      local first = call('ZRANGE', WORK .. class.name, 0, 0, 'WITHSCORES')
      if first[1] then found[#found + 1] = { id = first[1], rank = { tonumber(first[2]) } } end
    end
    return found
  end)
end
