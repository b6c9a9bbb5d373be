-- Claims a slot for a task, after releasing another claim where one is handed over.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 held lease, ms; 2 offered lease, ms; 3 task; 4 kind; 5 attempt; 6 memory needed, MB, or ''; 7 lowest capability (90 is 9.0), -1 for any;
--       8 '=' and the preferred model, or ''; 9 the only GPU that will do, or ''; 10 '=' and the strategy asked for, or ''; 11 asking GPU;
--       12 its incarnation; 13 its delivery; 14 mode: choose, tasks_waiting or here; 15 task whose claim ends, or ''; 16 that claim's token
-- Returns one of
--   {'own' or 'other', gpu, token, strategy, fallback: '-', 'unknown' or 'disabled', what was asked for}
--   {'held', ms that the other's claim lives}
--   {'full_here'}                      it fits the asking GPU, which has no slot or memory now
--   {'full_elsewhere', gpu}            it fits only elsewhere: wait in that GPU's queue
--   {'nothing_fits'}, {'gpu_unknown'}, {'gpu_away'}, {'not_here'}
local task, attempt, only, mode = ARGV[3], ARGV[5], ARGV[9], ARGV[14]
local incarnation, delivery = ARGV[12], ARGV[13]
local wanted = { kind = ARGV[4], memory = tonumber(ARGV[6]), capability = tonumber(ARGV[7]), asker = ARGV[11],
  model = ARGV[8] ~= '' and string.sub(ARGV[8], 2) or nil }
local NAMES = { round_robin = true, least_loaded = true, task_specific = true }

local function answer(claim)
  local whose = claim.gpu == wanted.asker and 'own' or 'other'
  return { whose, claim.gpu, claim.token, claim.strategy, claim.fallback, claim.requested }
end

-- The answer where a live claim for this task exists.
local function standing_answer(claim)
  local takes_up = mode == 'here' and claim.state == 'offered' and claim.gpu == wanted.asker
  if claim.attempt == attempt and takes_up then
    claim.state, claim.incarnation, claim.delivery, claim.deadline = 'held', incarnation, delivery, now_ms + ARGV[1]
    write_claim(task, claim)
    return answer(claim)
  end
  if claim.attempt == attempt and claim.incarnation == incarnation and claim.delivery == delivery then return answer(claim) end
  return { 'held', claim.deadline - now_ms }
end

local function read_pool()
  local f = call('HMGET', POOL, 'token', 'sequence', 'memory', 'default', 'strategies')
  return { token = tonumber(f[1] or 0), sequence = tonumber(f[2] or 0), memory = tonumber(f[3] or 0), default = f[4] or '',
    strategies = f[5] or '' }
end

-- The strategy to use, why it is not the one asked for, and what was asked for in that case.
local function resolve(pool)
  if ARGV[10] == '' then return pool.default, '-', '' end
  local asked = string.sub(ARGV[10], 2)
  if not NAMES[asked] then return pool.default, 'unknown', asked end
  if not string.find(pool.strategies, ',' .. asked .. ',', 1, true) then return pool.default, 'disabled', asked end
  return asked, '-', ''
end

-- Writes a new claim: held at once by the GPU that asks, offered to any other.
local function take(row, pool)
  local own = row.id == wanted.asker
  local strategy, fallback, requested = resolve(pool)
  local token = string.format('%.0f', math.max(pool.token + 1, now_us))
  row.sequence = pool.sequence + 1
  local claim = { gpu = row.id, token = token, state = own and 'held' or 'offered', attempt = attempt, incarnation = incarnation,
    delivery = delivery, strategy = strategy, fallback = fallback, requested = requested,
    deadline = now_ms + (own and ARGV[1] or ARGV[2]) }
  call('HSET', POOL, 'token', token, 'sequence', row.sequence)
  call('HSET', ROW .. row.id, 'sequence', row.sequence)
  write_claim(task, claim)
  index(row)
  return answer(claim)
end

local function send_to_wait(row)
  row.sent = row.sent + 1
  call('HSET', ROW .. row.id, 'sent', row.sent)
  index(row)
  return { 'full_elsewhere', row.id }
end

-- Whether a living, ready row that fits has slot and memory now, and is under the thresholds.
local function has_room(row, class)
  return row.within and has_memory(row.used, class.usable, wanted) and call('SCARD', TASKS .. row.id) < row.slots
end

local function claim_here(own, pool)
  local class = own and own.alive and own.ready and (only == '' or only == own.id) and fits(own.class, wanted, pool)
  if not class then return { 'not_here' } end
  if has_room(own, class) then return take(own, pool) end
  return { 'full_here' }
end

local function claim_specific(pool)
  local row = read_row(only)
  if not row or not row.alive then
    return { tonumber(call('ZSCORE', KNOWN, only) or 0) > now_ms and 'gpu_away' or 'gpu_unknown' }
  end
  local class = fits(row.class, wanted, pool)
  if not class then return { 'nothing_fits' } end
  if not row.ready then return { 'gpu_away' } end
  if row.consuming and has_room(row, class) then return take(row, pool) end
  if only == wanted.asker then return { 'full_here' } end
  return send_to_wait(row)
end

local function claim_any(own, pool)
  local fits_here = own and own.alive and own.ready and fits(own.class, wanted, pool)
  if mode == 'tasks_waiting' and fits_here and own.consuming and has_room(own, fits_here) then return take(own, pool) end
  local row = choose((resolve(pool)), wanted, pool, own)
  if row then return take(row, pool) end
  if fits_here then return { 'full_here' } end
  row = least_work(wanted, pool)
  if row then return send_to_wait(row) end
  return { 'nothing_fits' }
end

sweep()
if ARGV[15] ~= '' then release(ARGV[15], ARGV[16]) end
local standing, dead_on = read_claim(task)
if standing then return standing_answer(standing) end
if dead_on then end_claim(task, dead_on) end
local pool = read_pool()
if mode ~= 'here' and only ~= '' then return claim_specific(pool) end
local own = read_row(wanted.asker)
if mode == 'here' then return claim_here(own, pool) end
return claim_any(own, pool)
