-- Tasks that no living GPU of the pool can run, as workers tell of them: what they ask for -> when they were last told of, and `first sightings JSON`.
local function forget_unserved(wanted)
  call('ZREM', UNSERVED, wanted)
  call('HDEL', UNSERVED_TOLD, wanted)
end

-- Forgets what nobody has told of for so many ms.
local function sweep_unserved(lives_ms)
  for _, wanted in ipairs(call('ZRANGEBYSCORE', UNSERVED, '-inf', now_ms - lives_ms)) do forget_unserved(wanted) end
end
