-- What is known of a group. Changes nothing.
-- ARGV    offset ms
-- Returns {} if nothing is, else {first_seen, changed, cancelled_at, not_counted, n_waiting, n_running, n_retrying, n_succeeded, n_failed, n_cancelled, n_expired}, nil for each
-- that is absent.

local group = read_group(now_ms(ARGV[1]))
if not group.first_seen then
  return {}
end
return {
  group.first_seen, group.changed, group.cancelled_at or false, group.not_counted or false, group.n_waiting or false, group.n_running or false,
  group.n_retrying or false, group.n_succeeded or false, group.n_failed or false, group.n_cancelled or false, group.n_expired or false,
}
