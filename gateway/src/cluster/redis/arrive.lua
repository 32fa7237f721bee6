-- Renews a node's lease, and notes that people have a socket on it.
--
-- KEYS      nodes: sorted set, node -> end of its lease, ms
--           here: set, the people on this node
--           online: hash, person -> role
--           leaving: sorted set, person -> end of their grace, ms
-- ARGV[1]   the node
-- ARGV[2]   the lease, ms
-- ARGV[3]   what the key of a person's nodes (a set) begins with
-- then, for each person, their id and role. None: only the lease is renewed.
--
-- Returns, for each person, 1 if they turned online by it, 0 if they were.

local nodes, here, online, leaving = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local node, lease, person_key = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZADD', nodes, string.format('%.0f', now + lease), node)
local turned = {}
for i = 4, #ARGV, 2 do
  local person, role = ARGV[i], ARGV[i + 1]
  redis.call('SADD', here, person)
  redis.call('SADD', person_key .. person, node)
  redis.call('ZREM', leaving, person)
  turned[#turned + 1] = redis.call('HSET', online, person, role)
end
return turned
