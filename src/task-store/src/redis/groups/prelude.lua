-- Stands before every function of a group, behind the store's own prelude.
--
-- KEYS[1] the group: a hash   KEYS[2] its members: a hash of task -> '<state> <rank> <joined at>'   KEYS[3] its members by id: a sorted set with scores of 0
-- KEYS[4] the members that ended, by the number of their end: a sorted set
--
-- Fields of a group (an absent field means 0 or "not yet"):
--   first_seen, changed, expires, kept   as of a task's record
--   n_<state>                            how many members are in that state
--   ends                                 the number of the last end
--   not_counted                          tasks that ended and found no room
--   cancelled_at                         Unix ms of the last cancel of the whole group
--   cancels                              how many there were: one counts for the members that joined before it
--
-- Of a member: `rank` orders the notes before its end, so that an earlier one that comes later changes nothing; `joined at` is how many cancels the group had then.

local ENDED = { succeeded = true, failed = true, cancelled = true, expired = true }

-- The group as a Lua table; empty if it is not known. What is left of one that has expired is deleted.
local function read_group(now)
  local group = read(KEYS[1], now)
  if group.stale then
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
    return {}
  end
  return group
end

-- The member as a Lua table, or nil.
local function member_of(group, id)
  local text_of = group.first_seen and redis.call('HGET', KEYS[2], id)
  if not text_of then
    return nil
  end
  local state, rank, joined_at = string.match(text_of, '^(%a+) (%d+) (%d+)$')
  return { state = state, rank = tonumber(rank), joined_at = tonumber(joined_at) }
end

local function cancels(group)
  return tonumber(group.cancels or 0)
end

-- What keeps one more member out, and nil if nothing does: the group is not known, and the caller has not entered its name in the list of groups; or it has as many as it may.
local function no_room(group, members_max, may_make)
  if not group.first_seen then
    if may_make ~= '1' then
      return 'no_group'
    end
    -- The server may have dropped the group and not yet what belongs to it.
    redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
    return nil
  end
  if redis.call('HLEN', KEYS[2]) >= tonumber(members_max) then
    return 'full'
  end
  return nil
end

-- Writes fields of the group. What belongs to it lives as long, and is told so with every change: each key is made at another time.
local function change_group(group, now, retention_ms, fields)
  write(KEYS[1], group, now, retention_ms, fields)
  local keep_ms = text(math.floor(retention_ms * 9 / 8))
  for i = 2, 4 do
    redis.call('PEXPIRE', KEYS[i], keep_ms)
  end
end

-- Takes the member out of the counts of its state.
local function uncount(id, before)
  redis.call('HINCRBY', KEYS[1], 'n_' .. before.state, -1)
  if ENDED[before.state] then
    redis.call('ZREM', KEYS[4], id)
  end
end

-- Puts the member into its state, and counts it there. `before`: what it was, or nil.
local function place(group, now, retention_ms, id, before, member)
  redis.call('HSET', KEYS[2], id, member.state .. ' ' .. text(member.rank) .. ' ' .. text(member.joined_at))
  if before then
    uncount(id, before)
  else
    redis.call('ZADD', KEYS[3], 0, id)
  end
  redis.call('HINCRBY', KEYS[1], 'n_' .. member.state, 1)
  if ENDED[member.state] then
    redis.call('ZADD', KEYS[4], text(redis.call('HINCRBY', KEYS[1], 'ends', 1)), id)
  end
  change_group(group, now, retention_ms, {})
end

