-- Hears that a GPU has copies of tensors no more.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 GPU; 2 incarnation; then for each copy: name, version
-- Returns how many were removed: those that this incarnation told, of this version or an older one
local gpu, incarnation, removed = ARGV[1], ARGV[2], 0
for i = 3, #ARGV, 2 do
  local copy = read_copy(call('HGET', TENSOR .. ARGV[i], gpu))
  if copy and copy.incarnation == incarnation and not is_newer(copy.version, ARGV[i + 1]) then
    forget_copy(ARGV[i], gpu)
    removed = removed + 1
  end
end
return removed
