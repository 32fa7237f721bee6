-- Notes that a connection holds a connection state.
--
-- KEYS[1]   the state, as in `states.lua`
-- ARGV[1]   the connection that must hold it, or have held it last; empty for a new state
-- ARGV[2]   how long it is kept, milliseconds
-- ARGV[3]   and so on: its fields, each a name and a value
--
-- Returns 1; 0, and nothing is noted, where another connection has taken it by now or it has been forgotten.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
