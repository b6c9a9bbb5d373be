-- What kinds do, as workers say it: `kind version` -> when it was last told, ms; the same -> `first JSON`, when it came up, ms, and the description.
local function forget_described(place)
  call('ZREM', DESCRIBED, place)
  call('HDEL', DESCRIBED_TOLD, place)
end

-- Forgets what nobody has told for so many ms.
local function sweep_described(lives_ms)
  for _, place in ipairs(call('ZRANGEBYSCORE', DESCRIBED, '-inf', now_ms - lives_ms)) do forget_described(place) end
end
