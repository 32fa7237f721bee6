-- Notes that people have no socket on a node any more. Whoever has none anywhere begins to leave.
--
-- KEYS      here, online, leaving: as in arrive.lua
-- ARGV[1]   the node
-- ARGV[2]   the grace, ms
-- ARGV[3]   what the key of a person's nodes begins with
-- then the people.

local here, online, leaving = KEYS[1], KEYS[2], KEYS[3]
local node, grace, person_key = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

for i = 4, #ARGV do
  local person = ARGV[i]
  redis.call('SREM', here, person)
  redis.call('SREM', person_key .. person, node)
  if redis.call('EXISTS', person_key .. person) == 0 and redis.call('HEXISTS', online, person) == 1 then
    -- NX: a second departure does not prolong the grace.
    redis.call('ZADD', leaving, 'NX', string.format('%.0f', now + grace), person)
  end
end
