-- Hears that GPUs have copies of tensors.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long a copy is remembered after it was last told, ms; 2 the same where its GPU has no row, ms; 3 most names; 4 how many of the names told longest ago are looked at for one whose copies
--       are gone, and removed at most for their age; then for each copy: name, GPU, version, incarnation, the record's JSON
-- Returns how many copies were refused, for their names would have been too many. One that is older than what its worker told before, or whose GPU another incarnation has, is passed over
local lives, names_max, looks = { ms = tonumber(ARGV[1]), gone_ms = tonumber(ARGV[2]) }, tonumber(ARGV[3]), tonumber(ARGV[4])

local function has_room()
  if call('ZCARD', TENSORS) < names_max then return true end
  for _, name in ipairs(call('ZRANGE', TENSORS_TOLD, 0, looks - 1)) do
    counting_copies(name, lives)
    if not call('ZSCORE', TENSORS, name) then return true end
  end
  return false
end

-- Whether there was room for it.
local function announce(name, gpu, version, incarnation, json)
  if (living_incarnation(gpu) or incarnation) ~= incarnation then return true end
  local old = read_copy(call('HGET', TENSOR .. name, gpu))
  if old and old.incarnation == incarnation and is_newer(old.version, version) then return true end
  if not call('ZSCORE', TENSORS, name) then
    if not has_room() then return false end
    call('ZADD', TENSORS, 0, name)
  end
  call('HSET', TENSOR .. name, gpu, string.format('%.0f %s %s ', now_ms, version, incarnation) .. json)
  call('ZADD', TENSORS_TOLD, now_ms, name)
  call('PEXPIRE', TENSOR .. name, lives.ms)
  return true
end

for _, name in ipairs(call('ZRANGEBYSCORE', TENSORS_TOLD, '-inf', now_ms - lives.ms, 'LIMIT', 0, looks)) do forget_name(name) end
local refused = 0
for i = 5, #ARGV, 5 do
  if not announce(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]) then refused = refused + 1 end
end
call('PEXPIRE', TENSORS, lives.ms)
call('PEXPIRE', TENSORS_TOLD, lives.ms)
return refused
