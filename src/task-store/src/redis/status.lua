-- What is known of a task. Changes nothing.
-- KEYS[1] the task's record
-- ARGV    offset ms
-- Returns {} if nothing is known (of a task, or of a cancel that waits for every task of the id), else
--   {first_seen, changed, kind, gpu, attempt, waiting, cancelled, outcome, ended_attempt, ended_token, '1' if the reply is kept or '', due, due_after, retry_error, progress,
--   progress_message, progress_at, crashes, runs, not_before, delayed, group}, nil for each that is absent. Progress only of the attempt that runs; `runs` is 1 if one does, `delayed` if
--   none began and none may yet.

local now = now_ms(ARGV[1])
local record = read(KEYS[1], now)
local cancelled = not record.cancelled_unseen and record.cancelled or false
if not seen(record) and not cancelled then
  return {}
end
local delayed = not record.attempt and record.delayed_until and tonumber(record.delayed_until) > now
local progress = runs(record) and record.progress_token == record.token and record.progress
return {
  record.first_seen, record.changed, record.kind or false, record.gpu or false, record.attempt or false, record.waiting or false,
  cancelled, record.outcome or false, record.ended_attempt or false, record.ended_token or false,
  keeps_reply(record, now), record.due or false, record.due_after or false, record.retry_error or false,
  progress or false, progress and record.progress_message or false, progress and record.progress_at or false,
  record.crashes or false, runs(record) and '1' or false,
  record.not_before or false, delayed and '1' or false, record.group or false,
}
