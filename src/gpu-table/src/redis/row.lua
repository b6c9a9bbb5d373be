-- Rows and their indexes.
--
-- A row is in `load`, `turn` and `model` while it is eligible with a free slot, in `busy` while it is eligible without one, and in `work` while tasks may wait for it.
-- Scores are whole numbers that a double holds exactly:
--   load   share of slots held or offered, in 1/1024 (10 bits) | memory in use, in % (7 bits) | number of its last claim (36 bits)
--   work   (and busy) held + offered + waiting + sent there, for its slots, in 1/1024 (17 bits) | number of its last claim (36 bits)
--   turn   number of its last claim
local SEQUENCES, PERCENTS, STEPS, WORK_MAX = 2 ^ 36, 2 ^ 7, 1024, 2 ^ 17 - 1

-- The row of a GPU, dead or alive; nil if there is none.
local function read_row(id)
  local f = call('HMGET', ROW .. id, 'expires', 'class', 'slots', 'used', 'percent', 'ready', 'consuming', 'within', 'waiting',
    'sent', 'sequence', 'models', 'incarnation', 'held', 'told')
  if not f[1] then return nil end
  return { id = id, alive = tonumber(f[1]) > now_ms, class = f[2], slots = tonumber(f[3]), used = tonumber(f[4]),
    percent = tonumber(f[5]), ready = f[6] == '1', consuming = f[7] == '1', within = f[8] == '1', waiting = tonumber(f[9]),
    sent = tonumber(f[10]), sequence = tonumber(f[11]), models = f[12], incarnation = f[13], held = tonumber(f[14]), told = tonumber(f[15]) }
end

-- The models of a row, as a list. They may be any text, hence the packing.
local function models_of(row)
  return row.models == '' and {} or cmsgpack.unpack(row.models)
end

local function unindex_busy(row)
  for _, model in ipairs(models_of(row)) do call('ZREM', BUSY .. row.class .. ':' .. model, row.id) end
end

local function unindex_free(row)
  call('ZREM', LOAD .. row.class, row.id)
  call('ZREM', TURN .. row.class, row.id)
  for _, model in ipairs(models_of(row)) do call('ZREM', MODEL .. row.class .. ':' .. model, row.id) end
end

-- Takes a row out of every index; its class goes with its last member.
local function unindex(row)
  unindex_free(row)
  unindex_busy(row)
  if call('ZREM', WORK .. row.class, row.id) == 1 and call('EXISTS', WORK .. row.class) == 0 then
    call('SREM', CLASSES, row.class)
  end
end

-- Slots of a row that are held or offered.
local function taken_slots(row)
  row.offered = row.offered or call('SCARD', OFFERED .. row.id)
  return row.held + row.offered
end

local function load_score(row)
  return (floor(taken_slots(row) * STEPS / row.slots) * PERCENTS + row.percent) * SEQUENCES + row.sequence % SEQUENCES
end

-- Tasks that are there, or on their way there.
local function tasks_of(row)
  return taken_slots(row) + row.waiting + row.sent
end

local function work_score(row)
  local work = math.min(floor(tasks_of(row) * STEPS / math.max(row.slots, 1)), WORK_MAX)
  return work * SEQUENCES + row.sequence % SEQUENCES
end

-- Puts a ready, consuming row where its load and its work belong now.
local function index(row)
  if not (row.ready and row.consuming) then return end
  local taken, work = taken_slots(row), work_score(row)
  call('ZADD', WORK .. row.class, work, row.id)
  if not row.within then
    unindex_busy(row)
    return unindex_free(row)
  end
  if taken >= row.slots then
    for _, model in ipairs(models_of(row)) do call('ZADD', BUSY .. row.class .. ':' .. model, work, row.id) end
    return unindex_free(row)
  end
  unindex_busy(row)
  local score = load_score(row)
  call('ZADD', LOAD .. row.class, score, row.id)
  call('ZADD', TURN .. row.class, row.sequence, row.id)
  for _, model in ipairs(models_of(row)) do call('ZADD', MODEL .. row.class .. ':' .. model, score, row.id) end
end

-- Indexes a row whose readiness may have changed.
local function index_anew(row)
  if not (row.ready and row.consuming) then return unindex(row) end
  call('SADD', CLASSES, row.class)
  index(row)
end

-- Removes a row; offers to it end. `row` may have nothing but its id, where a server that evicts keys has taken the rest.
local function remove_row(row)
  if row.class then unindex(row) end
  for _, task in ipairs(call('SMEMBERS', OFFERED .. row.id)) do
    call('HDEL', OFFERS, task)
    call('ZREM', DUE, 'o' .. task)
  end
  call('DEL', ROW .. row.id, OFFERED .. row.id)
  call('SREM', ROWS, row.id)
  call('ZREM', DUE, 'r' .. row.id)
end

-- The capability and the memory, in MB, of a class's GPUs, and whether they run a kind.
local function read_class(class)
  local capability, total, kinds = string.match(class, '^(%d+):(%d+):(.*)$')
  return tonumber(capability), tonumber(total), kinds
end
