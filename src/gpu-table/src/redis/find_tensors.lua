-- Where the tensors of these names are.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long a copy is remembered after it was last told, ms; 2 the same where its GPU has no row, ms; 3... names
-- Returns the JSON of each copy that a living GPU has, in no order
local lives, found = { ms = tonumber(ARGV[1]), gone_ms = tonumber(ARGV[2]) }, {}
for i = 3, #ARGV do
  for _, json in ipairs(counting_copies(ARGV[i], lives)) do found[#found + 1] = json end
end
return found
