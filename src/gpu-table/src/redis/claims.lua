-- Claims and their sweeping.
--
-- A claim is packed as `gpu token state attempt incarnation delivery strategy fallback requested`: state is `offered` or `held`, fallback `-`
-- where there was none, requested (any text, hence last) what the task asked for if there was one. Its deadline is its score in `deadlines`.
local SWEEP = 128 -- how many dead rows, and how many dead claims, one call sweeps at most

-- The live claim for a task; nil if there is none, and then the GPU of a dead one that nobody has swept, if there is one.
local function read_claim(task)
  local packed = call('HGET', CLAIMS, task)
  if not packed then return nil end
  local gpu, token, state, attempt, incarnation, delivery, strategy, fallback, requested =
    string.match(packed, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (.*)$')
  local deadline, expires = tonumber(call('ZSCORE', DEADLINES, task) or 0), tonumber(call('ZSCORE', ROWS, gpu) or 0)
  if deadline <= now_ms or expires <= now_ms then return nil, gpu end
  return { gpu = gpu, token = token, state = state, attempt = attempt, incarnation = incarnation, delivery = delivery,
    strategy = strategy, fallback = fallback, requested = requested, deadline = deadline }
end

local function write_claim(task, claim)
  call('HSET', CLAIMS, task, table.concat({ claim.gpu, claim.token, claim.state, claim.attempt, claim.incarnation, claim.delivery,
    claim.strategy, claim.fallback, claim.requested }, ' '))
  call('ZADD', DEADLINES, claim.deadline, task)
  call('SADD', TASKS .. claim.gpu, task)
end

-- Ends a claim, dead or alive, and gives its slot back.
local function end_claim(task, gpu)
  call('HDEL', CLAIMS, task)
  call('ZREM', DEADLINES, task)
  call('SREM', TASKS .. gpu, task)
  local row = read_row(gpu)
  if row then index(row) end
end

-- Sweeps what is dead by now: the oldest first, so that a flood of dead delays nobody for long.
local function sweep()
  for _, id in ipairs(call('ZRANGEBYSCORE', ROWS, '-inf', now_ms, 'LIMIT', 0, SWEEP)) do
    remove_row(read_row(id))
  end
  for _, task in ipairs(call('ZRANGEBYSCORE', DEADLINES, '-inf', now_ms, 'LIMIT', 0, SWEEP)) do
    end_claim(task, string.match(call('HGET', CLAIMS, task), '^%S+'))
  end
end

-- Releases a claim if it is live and has this token: 1 if it was, else 0.
local function release(task, token)
  local claim = read_claim(task)
  if not claim or claim.token ~= token then return 0 end
  end_claim(task, claim.gpu)
  return 1
end
