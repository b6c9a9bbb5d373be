-- Where the copies of tensors are: of each name, GPU -> `told version incarnation JSON`: when a worker told it last, ms, and the record. Of all names, when one of their copies was told last.
--
-- A copy counts while its GPU's row lives under the same incarnation. One that hardly counts again is removed by whoever meets it. `lives` has `ms`, for how long a copy is remembered, and `gone_ms`, the
-- same where its GPU has no row.

local function read_copy(packed)
  local told, version, incarnation, json = string.match(packed or '', '^(%d+) (%d+) (%S+) (.*)$')
  return told and { told = tonumber(told), version = version, incarnation = incarnation, json = json }
end

-- Versions are whole numbers as text: a double does not hold all of them.
local function is_newer(version, other)
  if #version ~= #other then return #version > #other end
  return version > other
end

local incarnations = {}

-- The incarnation of a GPU's living row; false if it has none. Each is looked at once.
local function living_incarnation(gpu)
  if incarnations[gpu] == nil then
    local f = call('HMGET', ROW .. gpu, 'expires', 'incarnation')
    incarnations[gpu] = f[1] and f[2] and tonumber(f[1]) > now_ms and f[2] or false
  end
  return incarnations[gpu]
end

local function forget_name(name)
  call('DEL', TENSOR .. name)
  call('ZREM', TENSORS, name)
  call('ZREM', TENSORS_TOLD, name)
end

local function forget_copy(name, gpu)
  call('HDEL', TENSOR .. name, gpu)
  if call('EXISTS', TENSOR .. name) == 0 then forget_name(name) end
end

-- Whether a copy may count now or later. What nobody has written so is no copy.
local function may_count(copy, living, lives)
  if not copy then return false end
  if living then return living == copy.incarnation and now_ms < copy.told + lives.ms end
  return now_ms < copy.told + lives.gone_ms
end

-- The copies of a name that count.
local function counting(name, lives)
  local fields, found, left = call('HGETALL', TENSOR .. name), {}, 0
  for i = 1, #fields, 2 do
    local copy, living = read_copy(fields[i + 1]), living_incarnation(fields[i])
    if not may_count(copy, living, lives) then
      call('HDEL', TENSOR .. name, fields[i])
    else
      left = left + 1
      if living then
        copy.gpu = fields[i]
        found[#found + 1] = copy
      end
    end
  end
  if left == 0 then forget_name(name) end
  return found
end

-- The same, as JSON.
local function counting_copies(name, lives)
  local found = counting(name, lives)
  for i, copy in ipairs(found) do found[i] = copy.json end
  return found
end
