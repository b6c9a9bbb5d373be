-- What is known of a task. Changes nothing.
-- KEYS[1] the task's record; of a slice also KEYS[2] and KEYS[3] (see slices.lua)
-- ARGV    offset ms
-- Returns {} if nothing is known (of a task, or of a cancel that waits for every task of the id), else
--   {first_seen, changed, kind, gpu, attempt, waiting, cancelled, outcome, ended_attempt, ended_token, '1' if the reply is kept or '', due, due_after, retry_error, progress,
--   progress_message, progress_at, crashes, runs, not_before, delayed, group}, nil for each that is absent. Progress only of the attempt that runs; `runs` is 1 if one does, `delayed` if
--   none began and none may yet.
--   Where there is one, then its slices, as `split_answer` says them, of a batch that was split and has not ended; and `progress_items` with the progress of another one.
--   {first_seen, changed, kind}   of a slice that has not begun, as its batch has them

local now = now_ms(ARGV[1])
local record, batch = read_task(KEYS, now)
local cancelled = not record.cancelled_unseen and record.cancelled or false
if not seen(record) and not cancelled then
  if batch and batch.wanted and batch.state == 'waiting' then
    return redis.call('HMGET', KEYS[2], 'first_seen', 'changed', 'kind')
  end
  return {}
end
local delayed = not record.attempt and record.delayed_until and tonumber(record.delayed_until) > now
local progress = runs(record) and record.progress_token == record.token and record.progress
local answer = {
  record.first_seen, record.changed, record.kind or false, record.gpu or false, record.attempt or record.split_attempt or false, record.waiting or false,
  cancelled, record.outcome or false, record.ended_attempt or false, record.ended_token or false,
  keeps_reply(record, now), record.due or false, record.due_after or false, record.retry_error or false,
  progress or false, progress and record.progress_message or false, progress and record.progress_at or false,
  record.crashes or false, runs(record) and '1' or false,
  record.not_before or false, delayed and '1' or false, record.group or false,
}
if record.slices and not record.outcome then
  answer[23] = split_answer('split', record)[2]
elseif progress and record.progress_items then
  answer[23], answer[24] = false, record.progress_items
end
return answer
