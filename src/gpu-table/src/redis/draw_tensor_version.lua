-- Draws the version of a tensor that is made: above the latest of its name.
--
-- KEYS  1 what all keys of the pool begin with
-- ARGV  1 how long a copy is remembered after it was last told, ms; 2 the same where its GPU has no row, ms; 3 how long a draw is remembered, ms; 4 name; 5 who makes it; 6 the version that is wanted;
--       7 'token' or 'time': what the wanted one is
-- Returns the version, as text: what is wanted, or one above the latest where that is not older. A token that is older than one for which a version was drawn is given back as it is, and the same token gets
-- the same version again
--
-- `drawn:<name>` is `latest token version until`: the latest that was drawn, the newest token for which one was drawn ('0': none), that one, and until when this is remembered, ms.
local lives = { ms = tonumber(ARGV[1]), gone_ms = tonumber(ARGV[2]) }
local name, owner, wanted, is_token = ARGV[4], ARGV[5], ARGV[6], ARGV[7] == 'token'
local VERSION_MAX = '18446744073709551615'

local function next_after(version)
  if version == VERSION_MAX then return version end
  local digits, at = { string.byte(version, 1, -1) }, #version
  while at > 0 and digits[at] == 57 do
    digits[at] = 48
    at = at - 1
  end
  if at == 0 then return '1' .. string.rep('0', #version) end
  digits[at] = digits[at] + 1
  return string.char(unpack(digits))
end

-- Of copies of the same version the one whose GPU comes last, as everybody lists them.
local function is_above(copy, other)
  if copy.version ~= other.version then return is_newer(copy.version, other.version) end
  return copy.gpu > other.gpu
end

local top
for _, copy in ipairs(counting(name, lives)) do
  if not top or is_above(copy, top) then top = copy end
end

local function is_of_owner(copy)
  local read, record = pcall(cjson.decode, copy.json)
  return read and type(record) == 'table' and record.owner == owner
end

local latest, token, of_token, until_ms = string.match(call('GET', DRAWN .. name) or '', '^(%d+) (%d+) (%d+) (%d+)$')
if not until_ms or now_ms >= tonumber(until_ms) then latest, token, of_token = '0', '0', '0' end
if is_token then
  if token ~= '0' and not is_newer(wanted, token) then return wanted == token and of_token or wanted end
  if token == '0' and top and not is_newer(wanted, top.version) and is_of_owner(top) then return wanted end
end
if top and is_newer(top.version, latest) then latest = top.version end
local version = next_after(latest)
if is_newer(wanted, version) then version = wanted end
if is_token then token, of_token = wanted, version end
call('SET', DRAWN .. name, string.format('%s %s %s %.0f', version, token, of_token, now_ms + ARGV[3]), 'PX', ARGV[3])
return version
