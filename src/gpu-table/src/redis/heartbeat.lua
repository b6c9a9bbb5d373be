-- Writes a GPU's row, renews and restores the claims that its worker holds, restores settings where absent or older.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 held lease, ms; 2 how long a GPU is known, ms; 3 GPU; 4 incarnation; 5 the row's JSON; 6 class: `capability:memory MB:,kinds,`;
--       7 slots; 8 memory used, MB; 9 '1' if healthy and not stopping; 10 '1' if consuming; 11 foreign utilisation, %; 12 waiting in hand;
--       13 number of models M; 14 number of settings fields S;
--       then M models; S fields as in settings.lua; for each held claim: task, token, attempt, delivery
-- Returns {settings JSON, 1 if the GPU drains else 0, tasks that a newer claim has taken over...}
local id, class = ARGV[3], ARGV[6]
local models_end = 14 + ARGV[13]
local settings_end = models_end + ARGV[14]
local held_until = now_ms + ARGV[1]

-- A gap of a lease, a clock that went back, or an emptied table: rows may be missing whose workers live.
local function note_beat()
  local last = tonumber(call('HGET', POOL, 'beat') or -math.huge)
  if now_ms > last + ARGV[1] or now_ms < last then call('HSET', POOL, 'steady', now_ms) end
  call('HSET', POOL, 'beat', now_ms)
end

local function restore_settings()
  local given = {}
  for i = models_end + 1, settings_end do given[#given + 1] = ARGV[i] end
  local version = call('HGET', POOL, 'version')
  if not version or tonumber(version) < tonumber(given[1]) then write_settings(given, given[1]) end
end

local function packed_models()
  local models = {}
  for i = 15, models_end do models[#models + 1] = ARGV[i] end
  return #models > 0 and cmsgpack.pack(models) or ''
end

local function memory_percent()
  local _, total = read_class(class)
  return total == 0 and 100 or math.min(floor(ARGV[8] * 100 / total), 100)
end

-- Its predecessor under another incarnation, or one that died unswept, ends first. Else: the number of its last claim.
local function clear_way(models)
  local old = read_row(id)
  if not old then
    -- A server that evicts keys one by one may have taken the row and left this: its slots would be held for ever.
    call('DEL', TASKS .. id)
    return 0
  end
  if not old.alive or call('HGET', ROW .. id, 'incarnation') ~= ARGV[4] then
    remove_row(old)
    return 0
  end
  if old.class ~= class or old.models ~= models then unindex(old) end
  return old.sequence
end

local function write_row()
  local models = packed_models()
  local sequence = clear_way(models)
  call('HSET', ROW .. id, 'expires', held_until, 'incarnation', ARGV[4], 'json', ARGV[5], 'class', class, 'slots', ARGV[7], 'used', ARGV[8],
    'percent', memory_percent(), 'able', ARGV[9], 'consuming', ARGV[10], 'foreign', ARGV[11], 'waiting', ARGV[12], 'sent', 0,
    'sequence', sequence, 'models', models)
  call('ZADD', ROWS, held_until, id)
  call('ZADD', KNOWN, now_ms + ARGV[2], id)
  local thresholds = call('HMGET', POOL, 'memory', 'utilization')
  judge(ROW .. id, id, tonumber(thresholds[1]), tonumber(thresholds[2]))
end

-- Renews or restores one claim. False: a newer claim has taken the task over.
local function keep(task, token, attempt, delivery)
  local claim = read_claim(task)
  if claim and tonumber(claim.token) > tonumber(token) then return false end
  if claim and claim.token == token then
    if claim.state == 'held' then call('ZADD', DEADLINES, 'GT', held_until, task) end
    return true
  end
  local stale = call('HGET', CLAIMS, task)
  if stale then end_claim(task, string.match(stale, '^%S+')) end
  write_claim(task, { gpu = id, token = token, state = 'held', attempt = attempt, incarnation = ARGV[4], delivery = delivery,
    strategy = call('HGET', POOL, 'default'), fallback = '-', requested = '', deadline = held_until })
  return true
end

local function keep_all()
  local last, lost = tonumber(call('HGET', POOL, 'token') or 0), {}
  for i = settings_end + 1, #ARGV, 4 do
    if not keep(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) then lost[#lost + 1] = ARGV[i] end
    last = math.max(last, tonumber(ARGV[i + 1]))
  end
  if #ARGV > settings_end then call('HSET', POOL, 'token', string.format('%.0f', last)) end
  return lost
end

sweep()
call('ZREMRANGEBYSCORE', KNOWN, '-inf', now_ms)
note_beat()
restore_settings()
write_row()
local lost = keep_all()
index_anew(read_row(id))
return { call('HGET', POOL, 'json'), call('SISMEMBER', DRAINING, id), unpack(lost) }
