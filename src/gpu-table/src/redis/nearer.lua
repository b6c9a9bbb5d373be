-- What a task gains where its model or its data are: whether it waits there for a slot although another GPU is free.
local WAITING_MAX = 8 -- behind so many tasks that wait for a GPU nobody is sent to wait there

-- Whether a living row is eligible and fits, and has no free slot.
local function is_busy(row, wanted, pool)
  return row.within and open_class(row, wanted, pool) and taken_slots(row) >= row.slots
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
    if own and is_busy(own, wanted, pool) and has_model(own, wanted.model) then
      found[#found + 1] = { id = own.id, rank = { work_score(own) } }
    end
    return found
  end, own)
end

-- The busy rows where the task may run sooner: the one with its model and the least work, and those that have some of its data.
local function busy_rows(wanted, pool, own)
  local found = { wanted.model and busy_with_model(wanted, pool, own) or nil }
  for _, row in ipairs(rows_with_data(wanted)) do
    if is_busy(row, wanted, pool) then found[#found + 1] = row end
  end
  if own and wanted.data and wanted.data.at[own.id] and is_busy(own, wanted, pool) then found[#found + 1] = own end
  return found
end

-- What it takes until the task's data and its model are on a row, in ms; nil where it has to load the model and `load` is nil.
local function ready_ms(row, wanted, load)
  local data_ms = data_us(wanted.data, row.id) / 1000
  if not wanted.model or has_model(row, wanted.model) then return data_ms end
  return load and load + data_ms
end

-- The same of the one and of the other row; nil where a load is among that and not known: what the other one knows of it will do, or else the first.
local function readies(there, here, wanted)
  local load = load_ms(here, wanted) or load_ms(there, wanted)
  local there_ms, here_ms = ready_ms(there, wanted, load), ready_ms(here, wanted, load)
  if there_ms and here_ms then return there_ms, here_ms end
end

-- The busy row where the task runs so soon that to wait for it is clearly better than to bring its data to `free`, the best of the free rows, and load its model there: in less than half of that time, with
-- what has to be brought and loaded on the busy one too. nil where nothing has to be, and where anything is not known.
local function better_waited_for(free, strategy, wanted, pool, own)
  if strategy ~= 'task_specific' or ready_ms(free, wanted, 1) == 0 then return nil end
  local best
  for _, busy in ipairs(busy_rows(wanted, pool, own)) do
    local there_ms, here_ms = readies(busy, free, wanted)
    local run_ms = there_ms and busy.waiting + busy.sent < WAITING_MAX and tonumber((learnt(busy).run_ms or {})[wanted.kind])
    if run_ms then
      local all_ms = tasks_of(busy) * run_ms / math.max(busy.slots, 1) + there_ms
      local candidate = { id = busy.id, rank = { all_ms, work_score(busy) }, row = busy }
      if all_ms * 2 < here_ms and is_better(candidate, best) then best = candidate end
    end
  end
  return best and best.row
end

-- Whether it takes less than half as long to have the task's data and its model on the one row as on the other. Both are free.
local function is_clearly_nearer(there, here, wanted)
  local there_ms, here_ms = readies(there, here, wanted)
  return there_ms and there_ms * 2 < here_ms
end
