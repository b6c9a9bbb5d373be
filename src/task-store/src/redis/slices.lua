-- Stands behind the prelude: what a slice and its batch have to do with each other.
--
-- A slice is a task with a record of its own, made when it first begins. Its functions get the key of that record, of its batch's record and of its batch's results: a hash of
-- slice -> results. The name of a slice is the end of its record's key. Functions that take every task tell a slice by its second key.

-- Whether the hash of a slice's body says that it is of a batch whose body has another hash: 'hash of the batch/hash of the slice'. One that does not say whose it is may be anybody's.
local function is_of_another(slice_hash, batch_hash)
  local of = slice_hash and string.match(slice_hash, '^([^/]*)/')
  return of and batch_hash and of ~= batch_hash
end

-- What a batch's record says of one of its slices, whose body has that hash (nil if the caller does not know it). `wanted`: the batch is known, has not ended, was split into this slice,
-- and is the one that the hash says. One trip, however many slices there are.
local function batch_of(keys, now, hash)
  local name = string.match(keys[1], '[^:]+$')
  local field = 'slice:' .. name
  local known = redis.call('HMGET', keys[2], 'expires', 'kept', 'outcome', 'cancelled', field, 'items', 'items_done', 'items_failed', 'hash')
  if is_of_another(hash, known[9]) or not known[5] or known[3] or known[1] and tonumber(known[1]) <= now then
    return {wanted = false}
  end
  local from, to = string.match(name, '^(%d+)%.%.(%d+)$')
  local state, done, failed = string.match(known[5], '^(%a+) (%d+) (%d+)')
  return {
    wanted = true, key = keys[2], results = keys[3], name = name, field = field, size = to - from, cancelled = known[4],
    state = state, done = tonumber(done), failed = tonumber(failed),
    items = known[6], items_done = tonumber(known[7]), items_failed = tonumber(known[8]),
    kept = known[2] or nil, first_seen = true,
  }
end

-- The task's record; of a slice also its batch, and what that has against running it, with a body of that hash: {'unwanted'}, {'cancelled'} or nil.
local function read_task(keys, now, hash)
  local record = read(keys[1], now)
  if not keys[2] then
    return record
  end
  local batch = batch_of(keys, now, hash)
  if not batch.wanted then
    return record, batch, {'unwanted'}
  end
  if record.outcome and batch.state ~= 'ended' then
    -- Of an earlier life of its batch, of which only this is left.
    record = {stale = true}
  end
  if batch.cancelled then
    return record, batch, {'cancelled'}
  end
  if batch.state == 'ended' and not record.outcome then
    -- Its own record was forgotten sooner than its batch's, which others go on changing.
    return record, batch, {'unwanted'}
  end
  return record, batch
end

-- Writes what a slice is at into the record of its batch, which wants it. The record's expiry, and that of the results, count from now. Nothing else is written of a slice that
-- has ended.
--   note: state; done and failed: how many of its items have ended, and how many of those failed (0 if absent); bytes of its results and when it ended, once it did;
--   gpu: where it begins
local function note_slice(batch, now, retention_ms, note)
  if not batch.wanted or batch.state == 'ended' then
    return
  end
  local done, failed = note.done or 0, note.failed or 0
  batch.items_done, batch.items_failed = batch.items_done - batch.done + done, batch.items_failed - batch.failed + failed
  batch.state, batch.done, batch.failed = note.state, done, failed
  local value = table.concat({note.state, text(done), text(failed), note.bytes or '0', note.ended or '0'}, ' ')
  local fields = {batch.field, value, 'items_done', text(batch.items_done), 'items_failed', text(batch.items_failed)}
  if note.gpu then
    fields[7], fields[8] = 'gpu', note.gpu
  end
  local keep_ms = write(batch.key, batch, now, retention_ms, fields)
  if keep_ms then
    redis.call('PEXPIRE', batch.results, keep_ms)
  end
end

-- Whether one of a batch's slices runs.
local function a_slice_runs(record)
  for name in string.gmatch(record.slices or '', '%S+') do
    if string.sub(record['slice:' .. name], 1, 7) == 'running' then
      return true
    end
  end
  return false
end

-- The results of a batch that take room as such, in one line each: when the slice ended (Unix ms), and their bytes. Not of a batch that was merged: see forget_slices.lua.
local function results_of(record)
  local lines = {}
  if record.slices and not record.results_until then
    for name in string.gmatch(record.slices, '%S+') do
      local bytes, ended = string.match(record['slice:' .. name], '^ended %d+ %d+ (%d+) (%d+)$')
      if bytes then
        lines[#lines + 1] = ended .. ' ' .. bytes
      end
    end
  end
  return table.concat(lines, '\n')
end
