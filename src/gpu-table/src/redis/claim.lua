-- Claims a slot for a task.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 offered lease, ms; 2 task; 3 kind; 4 memory needed, MB, or ''; 5 lowest capability (90 is 9.0), -1 for any;
--       6 '=' and the preferred model, or ''; 7 the only GPU that will do, or ''; 8 '=' and the strategy asked for, or ''; 9 asking GPU;
--       10 its incarnation; 11 slots that it holds; 12 number of this telling; 13 '1' if one of these slots is for this task;
--       14 mode: choose or tasks_waiting; then, if the task has data that are nearer to some GPUs: 15 what it takes to bring them to any other, us; and for each of these, GPU, us
-- Returns one of
--   {'own' or 'other', gpu, strategy, fallback: '-', 'unknown' or 'disabled', what was asked for}
--   {'full_here'}                      it fits the asking GPU, which has no slot or memory now, or has the model or the data and a slot soon
--   {'full_elsewhere', gpu}            it fits only elsewhere, or its model or its data are there and a slot soon: wait in that GPU's queue
--   {'nothing_fits'}, {'gpu_unknown'}, {'gpu_away'}
local task, only, mode = ARGV[2], ARGV[7], ARGV[14]
local incarnation, slots_held, number, has_slot = ARGV[10], tonumber(ARGV[11]), ARGV[12], ARGV[13] == '1'
local wanted = { kind = ARGV[3], memory = tonumber(ARGV[4]), capability = tonumber(ARGV[5]), asker = ARGV[9],
  model = ARGV[6] ~= '' and string.sub(ARGV[6], 2) or nil }
if ARGV[15] then
  wanted.data = { elsewhere_us = tonumber(ARGV[15]), at = {} }
  for i = 16, #ARGV, 2 do wanted.data.at[ARGV[i]] = tonumber(ARGV[i + 1]) end
end
local NAMES = { round_robin = true, least_loaded = true, task_specific = true }

local function answer(offer)
  return { offer.gpu == wanted.asker and 'own' or 'other', offer.gpu, offer.strategy, offer.fallback, offer.requested }
end

local function read_pool()
  local f = call('HMGET', POOL, 'sequence', 'memory', 'default', 'strategies')
  return { sequence = tonumber(f[1] or 0), memory = tonumber(f[2] or 0), default = f[3] or '', strategies = f[4] or '' }
end

-- The strategy to use, why it is not the one asked for, and what was asked for in that case.
local function resolve(pool)
  if ARGV[8] == '' then return pool.default, '-', '' end
  local asked = string.sub(ARGV[8], 2)
  if not NAMES[asked] then return pool.default, 'unknown', asked end
  if not string.find(pool.strategies, ',' .. asked .. ',', 1, true) then return pool.default, 'disabled', asked end
  return asked, '-', ''
end

-- The asker holds the slot for this task too, unless it has told something newer, which counts it already.
local function hold(own)
  hear(own, incarnation, number, slots_held)
end

-- The answer where an offer stands for this task: the slot for the GPU that it is made to, if that one has a slot for the task; the same offer again for everybody else.
local function standing_answer(own)
  local offer = read_offer(task)
  if not offer then return nil end
  local row = own and offer.gpu == own.id and own or read_row(offer.gpu)
  if not row or not row.alive or tonumber(call('ZSCORE', DUE, 'o' .. task) or 0) <= now_ms then
    drop_offer(task, offer.gpu)
    if row and row.alive then index(row) end
    return nil
  end
  if offer.gpu ~= wanted.asker then return answer(offer) end
  drop_offer(task, offer.gpu)
  if not wanted.has_own_slot then return nil end
  hold(own)
  return answer(offer)
end

-- Gives the slot: counted as held by the GPU that asks, offered to any other.
local function take(row, pool)
  local strategy, fallback, requested = resolve(pool)
  local offer = { gpu = row.id, strategy = strategy, fallback = fallback, requested = requested }
  row.sequence = pool.sequence + 1
  call('HSET', POOL, 'sequence', row.sequence)
  if row.id == wanted.asker then
    hold(row)
  else
    write_offer(task, offer, now_ms + ARGV[1])
    row.offered = nil
    write_counts(row)
  end
  return answer(offer)
end

local function send_to_wait(row)
  row.sent = row.sent + 1
  write_counts(row)
  return { 'full_elsewhere', row.id }
end

local function claim_specific(own, pool)
  local row = only == wanted.asker and own or read_row(only)
  if not row or not row.alive then
    return { tonumber(call('ZSCORE', KNOWN, only) or 0) > now_ms and 'gpu_away' or 'gpu_unknown' }
  end
  local class = fits(row.class, wanted, pool)
  if not class then return { 'nothing_fits' } end
  if not row.ready then return { 'gpu_away' } end
  if row.consuming and has_room(row, class, wanted) then return take(row, pool) end
  if only == wanted.asker then return { 'full_here' } end
  return send_to_wait(row)
end

local function claim_any(own, pool)
  local fits_here = own and own.ready and fits(own.class, wanted, pool)
  local stays = mode == 'tasks_waiting' and fits_here and own.consuming and has_room(own, fits_here, wanted)
  local strategy = resolve(pool)
  if stays and not (wanted.data and strategy == 'task_specific') then return take(own, pool) end
  local row = choose(strategy, wanted, pool, own)
  -- While tasks wait it is the asking one, unless the task's data are clearly nearer to the first.
  if stays and row and not is_clearly_nearer(row, own, wanted) then row = own end
  if row then
    local busy = better_waited_for(row, strategy, wanted, pool, own)
    if not busy then return take(row, pool) end
    if busy.id == wanted.asker then return { 'full_here' } end
    return send_to_wait(busy)
  end
  if fits_here then return { 'full_here' } end
  row = least_work(wanted, pool)
  if row then return send_to_wait(row) end
  return { 'nothing_fits' }
end

sweep()
local own = read_row(wanted.asker)
if own and not own.alive then own = nil end
-- A GPU that another incarnation has now gives the asker nothing: what it held would be counted nowhere.
wanted.has_own_slot = has_slot and own and own.incarnation == incarnation
-- What the asker holds without this task: the slot for it is added only where the answer gives it.
hear(own, incarnation, number, slots_held - (has_slot and 1 or 0))
local found = standing_answer(own)
if not found then
  local pool = read_pool()
  if only ~= '' then found = claim_specific(own, pool) else found = claim_any(own, pool) end
end
if own then write_counts(own) end
return found
