-- The tensors of the pool, by name.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long a copy is remembered after it was last told, ms; 2 the same where its GPU has no row, ms; 3 the name after which to begin, or ''; 4 most names that are given; 5 most names that are
--       looked at
-- Returns {the name after which to go on, '' at the end; the JSON of each copy that a living GPU has...}
local lives, names_max, looks = { ms = tonumber(ARGV[1]), gone_ms = tonumber(ARGV[2]) }, tonumber(ARGV[4]), tonumber(ARGV[5])
local names = call('ZRANGEBYLEX', TENSORS, ARGV[3] == '' and '-' or '(' .. ARGV[3], '+', 'LIMIT', 0, looks)
local found, given = { '' }, 0
for i, name in ipairs(names) do
  local copies = counting_copies(name, lives)
  for _, json in ipairs(copies) do found[#found + 1] = json end
  if #copies > 0 then given = given + 1 end
  if given >= names_max or i == looks then
    found[1] = name
    return found
  end
end
return found
