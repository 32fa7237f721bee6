-- Takes one attempt from a bucket that refills evenly: GCRA, the generic cell rate algorithm, which needs one number for a
-- bucket: the time at which it is full again (https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm).
--
-- KEYS[1]   the bucket
-- ARGV[1]   its size, which is also what it gains in a minute
--
-- Returns 0 where the attempt was taken, else the microseconds until there is one. Redis's clock counts, so the nodes' own
-- do not matter.

local size = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local one = 60000000 / size

local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + one
local wait = full_at - size * one - now
if wait > 0 then
  return math.ceil(wait)
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return 0
