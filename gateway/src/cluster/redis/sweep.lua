-- Takes a batch of people off a node whose lease has ended, and a batch of those whose grace has ended out of the house.
--
-- The people of a dead node get the grace from now, not from the end of its lease: they may be on their way to
-- another node, and where Redis came back with old leases, the nodes are alive and will renew before the grace ends.
--
-- KEYS      nodes, online, leaving: as in arrive.lua
-- ARGV[1]   the grace, ms
-- ARGV[2]   the size of a batch
-- ARGV[3]   what the key of a person's nodes begins with
-- ARGV[4]   what the key of a node's people begins with
--
-- Returns 1 if there may be more to do at once, 0 if not; and a list of the people who turned offline, each as {id, role}.

local nodes, online, leaving = KEYS[1], KEYS[2], KEYS[3]
local grace, batch, person_key, node_key = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_text = string.format('%.0f', now)
local more = 0
local offline = {}

local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', now_text, 'LIMIT', 0, 1)[1]
if dead then
  local people = redis.call('SPOP', node_key .. dead, batch)
  for _, person in ipairs(people) do
    redis.call('SREM', person_key .. person, dead)
    if redis.call('EXISTS', person_key .. person) == 0 and redis.call('HEXISTS', online, person) == 1 then
      redis.call('ZADD', leaving, 'NX', string.format('%.0f', now + grace), person)
    end
  end
  if #people < batch then
    redis.call('ZREM', nodes, dead)
  end
  more = 1
end

local gone = redis.call('ZRANGEBYSCORE', leaving, '-inf', now_text, 'LIMIT', 0, batch)
for _, person in ipairs(gone) do
  redis.call('ZREM', leaving, person)
  local role = redis.call('HGET', online, person)
  -- Whoever is on some node after all is not gone.
  if role and redis.call('EXISTS', person_key .. person) == 0 then
    redis.call('HDEL', online, person)
    offline[#offline + 1] = { person, role }
  end
end
if #gone == batch then
  more = 1
end
return { more, offline }
