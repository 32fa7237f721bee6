-- Changes connection states, each where a certain connection holds it.
--
-- KEYS      the states
-- ARGV      for each: the connection; a field and its new value, or an empty field to delete the state; how long it is kept
--           from now on, milliseconds; then whether its connection has ended (1 or 0).

for i, key in ipairs(KEYS) do
  local at = (i - 1) * 5
  local known = redis.call('HMGET', key, 'holder', 'ended')
  -- What comes after its end must not prolong it.
  if known[1] == ARGV[at + 1] and not known[2] then
    local field = ARGV[at + 2]
    if field == '' then
      redis.call('DEL', key)
    else
      redis.call('HSET', key, field, ARGV[at + 3])
      if ARGV[at + 5] == '1' then
        redis.call('HSET', key, 'ended', 1)
      end
      redis.call('PEXPIRE', key, ARGV[at + 4])
    end
  end
end
return #KEYS
