-- Every living row. For operators: its cost grows with the pool.
--
-- KEYS  1 what all keys of the pool begin with
-- Returns for each row, in no order, {JSON, slots held or offered, 1 if it drains else 0, 1 if eligible (a free slot aside) else 0, ms until it expires}
sweep()
local views = {}
for _, id in ipairs(call('SMEMBERS', ROWS)) do
  local f = call('HMGET', ROW .. id, 'json', 'ready', 'consuming', 'within', 'expires', 'held')
  if f[5] and tonumber(f[5]) > now_ms then
    local eligible = f[2] == '1' and f[3] == '1' and f[4] == '1'
    local taken = f[6] + call('SCARD', OFFERED .. id)
    views[#views + 1] = { f[1], taken, call('SISMEMBER', DRAINING, id), eligible and 1 or 0, f[5] - now_ms }
  end
end
return views
