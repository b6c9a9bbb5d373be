-- The fleet's settings. `given` is a list: version, JSON, default strategy, `,strategies,`, memory threshold, utilisation threshold, then every
-- draining GPU.

-- What the settings say of one row: whether its worker takes tasks, and whether it is under the thresholds.
local function judge(row_key, id, memory, utilization)
  local f = call('HMGET', row_key, 'able', 'used', 'class', 'foreign')
  local _, total = read_class(f[3])
  local ready = f[1] == '1' and call('SISMEMBER', DRAINING, id) == 0
  local within = tonumber(f[2]) < memory * total and f[4] / 100 < utilization
  call('HSET', row_key, 'ready', ready and '1' or '0', 'within', within and '1' or '0')
end

-- Writes settings and indexes every row anew: rare, and the one place whose cost grows with the pool.
local function write_settings(given, version)
  call('HSET', POOL, 'version', version, 'json', given[2], 'default', given[3], 'strategies', given[4], 'memory', given[5],
    'utilization', given[6])
  call('DEL', DRAINING)
  for i = 7, #given do call('SADD', DRAINING, given[i]) end
  for _, id in ipairs(call('SMEMBERS', ROWS)) do
    if call('EXISTS', ROW .. id) == 1 then
      judge(ROW .. id, id, tonumber(given[5]), tonumber(given[6]))
      index_anew(read_row(id))
    end
  end
end
