-- Time: the server's own, plus an offset that only tests set. Every script begins with this.
local call, floor = redis.call, math.floor
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2] + (call('GET', CLOCK_OFFSET) or 0) * 1000
local now_ms = floor(now_us / 1000)
