-- Stands before the functions of the store, which one script holds: each gets KEYS and ARGV of its own. The server's time is asked for once a call.
--
-- Time is the server's own, in Unix milliseconds, plus an offset that is 0 except in tests, which move time by it. Keys also expire by the server,
-- but what counts is the time written in the record, so that moving time moves expiry.
--
-- Fields of a record (one hash a task; an absent field means "not yet"):
--   first_seen, changed, expires     Unix ms
--   kept                             Unix ms until when the server keeps the key: longer than it counts, so that not every change has to say it anew
--   only_submitted                   while nothing but `submitted` was written: how many submits rely on it
--   kind, hash, waiting              text
--   not_before, delayed_until        Unix ms before which the task must not begin, as its producer said it, and by the server's clock
--   group                            the group in which the task is counted
--   attempt, token, gpu, incarnation, delivery   the attempt with the highest token that began, or the token that fences all of them off
--   alone                            1 if nothing else ran on that attempt's GPU
--   settled                          the token of a begun attempt that was handed back, or judged: it is not (again) a crash
--   crashes                          one line a crash, oldest first: attempt, GPU, Unix ms, alone (1 or 0), with spaces between
--   progress, progress_message ('' if none), progress_at (Unix ms), progress_token: how far the attempt of that token said it was
--   due, due_after, retry_error      the next attempt that is due after the latest failed one, the pause before it in ms, that one's error
--   cancelled                        Unix ms when a cancel was asked for, on a record of its own where no task of the id was known
--   cancelled_unseen                 1 if no task of the id was known and the cancel does not reach ahead: it counts for what was published up to its second, and is gone
--                                    once a later task is submitted or begins. A version that does not know this field takes the cancel to count for every task
--   outcome, ended_attempt, ended_token ('' if it never ran), digest, reply_until (Unix ms, 0 if not kept)
--   published                        to whom the reply was first published
--   progress_items                   with `progress`, of a batch or a slice: 'items, ended, failed' with spaces between, without the last where it is not known
-- Of a batch that was split, until its slices are forgotten:
--   slices                           their names (`16..32`), in order, with spaces between
--   slice:<name>                     for each: 'waiting', 'running' or 'ended', how many of its items have ended, how many of those failed, the bytes of its results, and Unix ms
--                                    when it ended (0: not yet), with spaces between
--   items, items_done, items_failed  of all slices together
--   results_until                    Unix ms until when the results can be read, once the batch has ended and was merged
-- And for as long as the record lives: split_attempt, the attempt that was split; split_token, which split it is; gpu, that of the slice that began last.

local time
local function now_us(offset_ms)
  time = time or redis.call('TIME')
  return time[1] * 1000000 + time[2] + tonumber(offset_ms) * 1000
end

local function now_ms(offset_ms)
  return math.floor(now_us(offset_ms) / 1000)
end

-- A whole number as text: tostring() would round it to 14 digits.
local function text(number)
  return string.format('%.0f', number)
end

-- The record as a Lua table: empty if there is none, and empty but for `stale` if it has expired.
local function read(key, now)
  local pairs_of = redis.call('HGETALL', key)
  local record = {}
  for i = 1, #pairs_of, 2 do
    record[pairs_of[i]] = pairs_of[i + 1]
  end
  if record.expires and tonumber(record.expires) <= now then
    return {stale = true}
  end
  return record
end

-- Writes fields into a record that was read as `record`, and counts its expiry from now, or from when its task is due. No longer only submitted. Returns for how many ms the
-- server keeps the key, if that was said anew.
local function write(key, record, now, retention_ms, fields)
  local now_text, count = text(now), #fields
  local delayed_ms = math.max(0, tonumber(record.delayed_until or 0) - now)
  if record.stale then
    redis.call('DEL', key)
  end
  if record.only_submitted then
    redis.call('HDEL', key, 'only_submitted')
  end
  fields[count + 1], fields[count + 2] = 'changed', now_text
  fields[count + 3], fields[count + 4] = 'expires', text(now + delayed_ms + tonumber(retention_ms))
  count = count + 4
  if not record.first_seen then
    fields[count + 1], fields[count + 2] = 'first_seen', now_text
    count = count + 2
  end
  local keep_ms
  local lives_on = tonumber(record.kept or 0) >= now + delayed_ms + retention_ms
  if not lives_on then
    keep_ms = text(delayed_ms + math.floor(retention_ms * 9 / 8))
    fields[count + 1], fields[count + 2] = 'kept', text(now + keep_ms)
  end
  redis.call('HSET', key, unpack(fields))
  if not lives_on then
    redis.call('PEXPIRE', key, keep_ms)
  end
  return keep_ms
end

-- Whether a task of the id is known: a cancel alone makes none.
local function seen(record)
  return record.kind or record.hash
end

-- Whether there is a cancel that counts for what was published in that Unix second (nil or '' if it is not known when). A time more than a day ahead is none: somebody has
-- written milliseconds, for example.
local function is_cancelled(record, published, now)
  if not record.cancelled or not record.cancelled_unseen then
    return record.cancelled
  end
  local second = tonumber(published)
  return not second or second > now / 1000 + 86400 or second <= math.floor(tonumber(record.cancelled) / 1000)
end

-- '1' while the reply is kept under its own key, else ''. The reply itself may be large: whoever wants it reads it beside the quick calls.
local function keeps_reply(record, now)
  return record.reply_until and tonumber(record.reply_until) > now and '1' or ''
end

-- {word, one line a slice: its name and what is written of it, hash of the batch's body, the attempt that was split, which split it is}
local function split_answer(word, record)
  local lines = {}
  for name in string.gmatch(record.slices, '%S+') do
    lines[#lines + 1] = name .. ' ' .. record['slice:' .. name]
  end
  return {word, table.concat(lines, '\n'), record.hash, record.split_attempt, record.split_token}
end

-- What stands against running this attempt of the task, whose message was published in that Unix second, as the client reads it; nil if nothing does:
--   {'reused'} | {'ended', outcome, attempt, token or '', '1' if the reply is kept or '', to whom published or nil} | {'cancelled'} | {'retried', attempt that is due, pause in ms}
--   | {'split', ...} as `split_answer` says it: a batch whose slices run in its place
local function stands_against(record, hash, attempt, now, published)
  if record.hash and record.hash ~= hash then
    return {'reused'}
  end
  if record.outcome then
    return { 'ended', record.outcome, record.ended_attempt, record.ended_token, keeps_reply(record, now), record.published or false }
  end
  if is_cancelled(record, published, now) then
    return {'cancelled'}
  end
  if record.due and tonumber(record.due) > tonumber(attempt) then
    return {'retried', record.due, record.due_after}
  end
  if record.slices then
    return split_answer('split', record)
  end
  return nil
end

-- Whether an attempt runs, as far as the store knows: it began, has no end, and was neither handed back nor judged.
local function runs(record)
  return record.attempt and not record.outcome and tonumber(record.attempt) >= tonumber(record.due or 0) and record.settled ~= record.token
end

-- The holder of an attempt that runs, unless the caller says what became of it (`judged`: that one's token, or '').
local function unfinished(record, judged)
  if not runs(record) or record.token == judged then
    return nil
  end
  return { 'unfinished', record.token, record.gpu, record.incarnation, record.delivery or '0' }
end

-- Takes the caller's verdict on the holder of that token: its worker is gone ('1', a crash), or has let go of the task. Returns whether there was one to judge.
local function judge(key, record, now, retention_ms, judged, gone)
  if not runs(record) or record.token ~= judged then
    return false
  end
  local fields = { 'settled', judged }
  if gone == '1' then
    record.crashes = (record.crashes or '') .. record.attempt .. ' ' .. record.gpu .. ' ' .. text(now) .. ' ' .. (record.alone or '0') .. '\n'
    fields[3], fields[4] = 'crashes', record.crashes
  end
  write(key, record, now, retention_ms, fields)
  record.settled = judged
  return true
end

-- A token above every earlier one of the task, and not below the time in microseconds.
local function next_token(record, offset_ms)
  return text(math.max(tonumber(record.token or 0) + 1, now_us(offset_ms)))
end

-- Whether an outcome of this attempt under this token ('' if it never ran) comes after an attempt that outranks it began.
local function is_late(record, attempt, token)
  if not record.token then
    return false
  end
  if token == '' then
    -- Only where no attempt of this number runs. A later number exists only because the earlier was handed back.
    return tonumber(attempt) <= tonumber(record.attempt)
  end
  return tonumber(token) < tonumber(record.token)
end
