-- Finds a connection state that may be picked up.
--
-- KEYS[1]   the state, a hash: `holder`, `node`, `since` (milliseconds), `user`, `role`, `socket`, `conversations`, `from`,
--           and `ended` once its connection has.
-- ARGV[1]   what the key of a node's last sign begins with: a string, the connections that it is about (up to which
--           `since`) and what they have received, or nothing.
--
-- Returns {holder, since, user, role, socket, conversations, from, the node's last sign or an empty string}, or nothing where the
-- state is unknown, or open on a node that has given no sign for too long.

local state = redis.call('HMGET', KEYS[1], 'since', 'user', 'role', 'socket', 'conversations', 'from', 'node', 'ended', 'holder')
if not state[1] then
  return false
end
local sign = ''
if not state[8] then
  sign = redis.call('GET', ARGV[1] .. state[7])
  if not sign then
    return false
  end
end
return { state[9], state[1], state[2], state[3], state[4], state[5], state[6], sign }
