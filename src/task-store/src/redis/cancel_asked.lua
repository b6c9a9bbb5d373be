-- Whether the end of a slice was asked for: by a cancel, or because its batch wants nothing of it.
-- KEYS[1] the slice's record   KEYS[2] its batch's record   KEYS[3] its batch's results (not read)
-- ARGV    offset ms
-- Returns {'asked'} or {'not_asked'}.

local record, _, against = read_task(KEYS, now_ms(ARGV[1]))
return {(against or record.cancelled) and 'asked' or 'not_asked'}
