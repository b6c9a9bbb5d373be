-- Time: the server's own, plus an offset in ms that only tests give. Every script begins with this: the offset is taken out of ARGV first.
local call, floor = redis.call, math.floor
local offset_ms = table.remove(ARGV, 1)
local time = call('TIME')
local now_ms = floor((time[1] * 1000000 + time[2]) / 1000) + offset_ms
