-- Does once, on keys of its own, whatever the scripts and the node itself do: so that a user of Redis who lacks a right is found
-- out when the node comes, not when a message does. The error names what is missing.
--
-- KEYS      a hash, a sorted set, a set, a stream and a string, that nobody else knows
-- ARGV[1]   a channel that nobody hears

-- Which command it was, an old Redis does not say by itself.
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  if type(answer) == 'table' and answer.err then
    error(string.lower(command) .. ': ' .. answer.err)
  end
end

local hash, sorted, set, stream, text = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

try('HSET', hash, 'a', 1, 'b', 2)
try('HINCRBY', hash, 'a', 1)
try('HGET', hash, 'a')
try('HMGET', hash, 'a', 'b')
try('HEXISTS', hash, 'a')
try('HSCAN', hash, 0)
try('HDEL', hash, 'a')
try('ZADD', sorted, 1, 'a')
try('ZRANGEBYSCORE', sorted, 0, 1)
try('ZREM', sorted, 'a')
try('SADD', set, 'a', 'b')
try('SSCAN', set, 0)
try('SREM', set, 'a')
try('SPOP', set)
try('XADD', stream, '1-0', 'a', 1)
try('XRANGE', stream, '-', '+')
try('XLEN', stream)
try('XTRIM', stream, 'MAXLEN', 0)
try('SET', text, 1)
try('GET', text)
try('EXPIRE', text, 60)
try('PEXPIRE', text, 60000)
try('EXISTS', text)
try('TIME')
try('PUBLISH', ARGV[1], '')
try('DEL', hash, sorted, set, stream, text)
return 1
