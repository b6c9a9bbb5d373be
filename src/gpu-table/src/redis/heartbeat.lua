-- Writes a GPU's row and the number of slots that its worker holds, ends the offers that it has taken, restores settings where absent or older.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 held lease, ms; 2 how long a GPU is known, ms; 3 GPU; 4 incarnation; 5 the row's JSON; 6 class: `capability:memory MB:,kinds,`;
--       7 slots; 8 memory in use that makes no way for tasks, MB; 9 '1' if healthy and not stopping; 10 '1' if consuming; 11 foreign utilisation, %; 12 waiting in hand;
--       13 slots held; 14 number of this telling; 15 number of models M; 16 number of settings fields S;
--       then M models; S fields as in settings.lua; the tasks whose offers were taken
-- Returns {settings JSON, 1 if the GPU drains else 0}
local id, class = ARGV[3], ARGV[6]
local models_end = 16 + ARGV[15]
local settings_end = models_end + ARGV[16]
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
  for i = 17, models_end do models[#models + 1] = ARGV[i] end
  return #models > 0 and cmsgpack.pack(models) or ''
end

local function memory_percent()
  local _, total = read_class(class)
  return total == 0 and 100 or math.min(floor(ARGV[8] * 100 / total), 100)
end

-- Its predecessor under another incarnation, or one that died unswept, ends first. Else: the row of before.
local function clear_way(models)
  local old = read_row(id)
  if not old then
    -- A server that evicts keys one by one may have taken the row and left this: its slots would be offered for ever.
    call('DEL', OFFERED .. id)
    return nil
  end
  if not old.alive or old.incarnation ~= ARGV[4] then
    remove_row(old)
    return nil
  end
  if old.class ~= class or old.models ~= models then unindex(old) end
  return old
end

local function write_row()
  local models = packed_models()
  local old = clear_way(models) or { sequence = 0, held = 0, told = 0 }
  if old.told <= tonumber(ARGV[14]) then old.held, old.told = ARGV[13], ARGV[14] end
  call('HSET', ROW .. id, 'expires', held_until, 'incarnation', ARGV[4], 'json', ARGV[5], 'class', class, 'slots', ARGV[7], 'used', ARGV[8],
    'percent', memory_percent(), 'able', ARGV[9], 'consuming', ARGV[10], 'foreign', ARGV[11], 'waiting', ARGV[12], 'sent', 0,
    'sequence', old.sequence, 'models', models, 'held', old.held, 'told', old.told)
  call('SADD', ROWS, id)
  call('ZADD', DUE, held_until, 'r' .. id)
  call('ZADD', KNOWN, now_ms + ARGV[2], id)
  local thresholds = call('HMGET', POOL, 'memory', 'utilization')
  judge(ROW .. id, id, tonumber(thresholds[1]), tonumber(thresholds[2]))
end

sweep()
call('ZREMRANGEBYSCORE', KNOWN, '-inf', now_ms)
note_beat()
restore_settings()
write_row()
for i = settings_end + 1, #ARGV do end_offer(ARGV[i], id) end
index_anew(read_row(id))
return { call('HGET', POOL, 'json'), call('SISMEMBER', DRAINING, id) }
