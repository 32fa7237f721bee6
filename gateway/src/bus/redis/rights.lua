-- Does once, on keys of its own, whatever the scripts and the node itself do: so that a user of Redis who lacks a right is found
-- out when the node comes, not when a message does. The error names what is missing.
--
-- KEYS      a hash, a sorted set, a set, a stream and a string, that nobody else knows
-- ARGV[1]   a channel that nobody hears

local hash, sorted, set, stream, text = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

redis.call('HSET', hash, 'a', 1, 'b', 2)
redis.call('HINCRBY', hash, 'a', 1)
redis.call('HGET', hash, 'a')
redis.call('HMGET', hash, 'a', 'b')
redis.call('HEXISTS', hash, 'a')
redis.call('HSCAN', hash, 0)
redis.call('HDEL', hash, 'a')
redis.call('ZADD', sorted, 1, 'a')
redis.call('ZRANGEBYSCORE', sorted, 0, 1)
redis.call('ZREM', sorted, 'a')
redis.call('SADD', set, 'a', 'b')
redis.call('SSCAN', set, 0)
redis.call('SREM', set, 'a')
redis.call('SPOP', set)
redis.call('XADD', stream, '1-0', 'a', 1)
redis.call('XRANGE', stream, '-', '+')
redis.call('XLEN', stream)
redis.call('XTRIM', stream, 'MAXLEN', 0)
redis.call('SET', text, 1)
redis.call('GET', text)
redis.call('EXPIRE', text, 60)
redis.call('PEXPIRE', text, 60000)
redis.call('EXISTS', text)
redis.call('TIME')
redis.call('PUBLISH', ARGV[1], '')
redis.call('DEL', hash, sorted, set, stream, text)
return 1
