-- The strategies: which of the eligible GPUs with a free slot a claim takes, and where a task waits if there is none.
--
-- Only the heads of the classes' indexes are looked at, so the cost grows with the number of classes, not of GPUs. The asking GPU is judged by its row alone: its worker has
-- just told how many slots it holds, which the indexes do not know yet. `wanted` is the claim's request: kind, capability, memory (nil if not needed), model (nil if
-- none), asker, has_own_slot; `pool` has the settings.
local LOOKS = 64 -- how many GPUs of one class are looked at for one that has the memory now
local WAITING_MAX = 8 -- behind so many tasks that wait for a GPU nobody is sent to wait for its model

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

-- Where a GPU with this load stands: model loaded, best fit, then least loaded.
local function load_rank(strategy, wanted, class, id, score, loaded)
  local share_percent = floor(score / SEQUENCES)
  local rank = { 0, 0, 0, floor(share_percent / PERCENTS), id == wanted.asker and 0 or 1, share_percent % PERCENTS, score % SEQUENCES }
  if strategy == 'task_specific' then
    rank[1] = (loaded or not wanted.model) and 0 or 1
    rank[2] = wanted.memory and class.total or 0
    rank[3] = wanted.capability >= 0 and class.capability or 0
  end
  return { id = id, rank = rank }
end

-- The first of one class.
local function first_of(class, strategy, wanted)
  if strategy == 'round_robin' then
    local id, score = head(TURN .. class.name, class.usable, wanted)
    return id and { id = id, rank = { score } }
  end
  if strategy == 'task_specific' and wanted.model then
    local id, score = head(MODEL .. class.name .. ':' .. wanted.model, class.usable, wanted)
    if id then return load_rank(strategy, wanted, class, id, score, true) end
  end
  local id, score = head(LOAD .. class.name, class.usable, wanted)
  return id and load_rank(strategy, wanted, class, id, score, false)
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

-- The asking GPU as a candidate; nil unless it is free.
local function asker(strategy, wanted, pool, own)
  local class = own and own.ready and own.consuming and fits(own.class, wanted, pool)
  if not class or not has_room(own, class, wanted) then return nil end
  if strategy == 'round_robin' then return { id = own.id, rank = { own.sequence } } end
  return load_rank(strategy, wanted, class, own.id, load_score(own), wanted.model and has_model(own, wanted.model))
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

-- The row that the strategy puts first; nil if none is free. `own` is the asker's row, or nil.
local function choose(strategy, wanted, pool, own)
  return best_alive(function()
    local found = {}
    for _, class in ipairs(fitting_classes(wanted, pool)) do
      found[#found + 1] = first_of(class, strategy, wanted) or nil
    end
    found[#found + 1] = asker(strategy, wanted, pool, own)
    return found
  end, own)
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

-- The busy row with the model and the least work; nil if there is none. The asking GPU is judged by its row, not by the indexes.
local function busy_with_model(wanted, pool, own)
  return best_alive(function()
    local found = {}
    for _, class in ipairs(fitting_classes(wanted, pool)) do
      local page = call('ZRANGE', BUSY .. class.name .. ':' .. wanted.model, 0, 1, 'WITHSCORES')
      local at = page[1] == wanted.asker and 3 or 1
      if page[at] then found[#found + 1] = { id = page[at], rank = { tonumber(page[at + 1]) } } end
    end
    local is_full = own and own.ready and own.consuming and own.within and taken_slots(own) >= own.slots
    if is_full and fits(own.class, wanted, pool) and has_model(own, wanted.model) then
      found[#found + 1] = { id = own.id, rank = { work_score(own) } }
    end
    return found
  end, own)
end

-- The busy row that has the task's model and comes free soon enough that to wait for it is clearly better than to load the model on `free`, the best of the free rows: in less than half the time
-- that a cold load is known to take. nil where `free` has the model, where none is asked for, and where anything is not known. What is learnt of loads and runs is in the rows' JSON, which is read
-- only here.
local function better_waited_for(free, strategy, wanted, pool, own)
  if strategy ~= 'task_specific' or not wanted.model or has_model(free, wanted.model) then return nil end
  local busy = busy_with_model(wanted, pool, own)
  if not busy then return nil end
  local there, here = cjson.decode(call('HGET', ROW .. busy.id, 'json')), cjson.decode(call('HGET', ROW .. free.id, 'json'))
  local load_ms = tonumber((here.load_ms or {})[wanted.model] or (there.load_ms or {})[wanted.model])
  local run_ms = tonumber((there.run_ms or {})[wanted.kind])
  if not load_ms or not run_ms or busy.waiting + busy.sent >= WAITING_MAX then return nil end
  local wait_ms = tasks_of(busy) * run_ms / math.max(busy.slots, 1)
  return wait_ms * 2 < load_ms and busy or nil
end
