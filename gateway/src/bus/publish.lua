-- Publishes a batch of envelopes: in order and once for each conversation, on every channel of each envelope's rooms, and
-- keeps those with a position for nodes that missed them.
--
-- One call is atomic, and Redis writes to a subscriber's connection in the order in which PUBLISH was called. So the frames
-- of one envelope reach a subscriber one after the other, with no other envelope's between them, whatever number of its
-- channels that subscriber listens to. That is why a subscriber needs only the place of the last frame it took to
-- know a frame for another copy of the same envelope.
--
-- KEYS[1]   the stream, a hash: `epoch`, a random name that dies with the data, `home`, the Redis it is good on, `offset`,
--           the number of envelopes with a position published so far, `passing`, that of the others, and `bytes`, how many
--           bytes the history was ever given. All in one key, so that none is lost without the others. Epoch and offset name a place in the one order of
--           everything that is kept.
-- KEYS[2]   the history, a Redis stream: the envelopes with a position published last, each under its offset (`offset-0`),
--           with the fields `e`, the payload, and `b`, the stream's `bytes` with it. Offsets have no holes, so a reader that
--           finds the one after the last it knows has missed nothing, and one that does not has. The history belongs to
--           the stream's epoch: a new epoch begins without one.
-- then, for each envelope with a position, in the order of the envelopes:
--           its conversation's head, a string: the eventSeq that went out last;
--           its conversation's parked ones, a hash: eventSeq -> packed {sent at, payload, channels ...}.
--
-- ARGV[1]   the epoch's name if a new one begins
-- ARGV[2]   when the caller sent this, milliseconds since 1970: goes into the frames
-- ARGV[3]   how long a head is remembered, seconds since it last moved
-- ARGV[4]   how long early ones are kept, seconds since the last of them came
-- ARGV[5]   how far ahead of the head an early one is kept at all: bounds the parked, and the work of a release
-- ARGV[6]   about how many envelopes the history holds at the most
-- ARGV[7]   about how many bytes
-- ARGV[8]   only in a call without envelopes: the name of this Redis. An epoch that began on another one ends: a replica that
--           was promoted, or a Redis that came back with an older copy, would give the offsets of what it lost to
--           something else.
-- or, for each envelope:
--           its eventSeq, 0 for one without a position;
--           the eventSeq before which everything is vouched to have been published, 0 for no voucher;
--           the number of channels, the channels, the payload.
-- Without any envelope it only makes sure that there is an epoch, and that it is this Redis'.
--
-- Returns one number for each envelope: 1 published, 2 a repeat, 3 parked, 4 the head is unknown.
--
-- A head moves after its envelope's frames were sent, so a call that fails half way can be made again: nothing is lost
-- by it, though some may hear the last one twice. An envelope is in the history before its frames are sent.
--
-- A frame is `epoch:place:sent at`, a line feed, the payload. The place is the offset; for an envelope without a position,
-- which has none, it is `~` and its number among those.

local stream = KEYS[1]
local history = KEYS[2]
local sent_at = ARGV[2]
local head_ttl = ARGV[3]
local parked_ttl = ARGV[4]
local window = tonumber(ARGV[5])
local history_length = ARGV[6]
local history_bytes = tonumber(ARGV[7])

-- What an entry takes beside its payload, about.
local ENTRY_BYTES = 64

local known = redis.call('HMGET', stream, 'epoch', 'bytes', 'home')
local epoch = known[1]
local here = #ARGV == 8 and ARGV[8]
local bytes_before = tonumber(known[2] or 0)
local bytes = bytes_before
if not epoch or (here and known[3] and known[3] ~= here) then
  epoch = ARGV[1]
  redis.call('HSET', stream, 'epoch', epoch)
  redis.call('DEL', history)
end

if here then
  redis.call('HSET', stream, 'home', here)
  return {}
end

local function whole(number)
  return string.format('%.0f', number)
end

local function remember(offset, payload)
  bytes = bytes + #payload + ENTRY_BYTES
  local function add()
    return redis.pcall('XADD', history, 'MAXLEN', '~', history_length, whole(offset) .. '-0',
      'e', payload, 'b', whole(bytes))
  end
  local added = add()
  if type(added) == 'table' and added.err then
    -- It is not the history of this stream: somebody restored or lost one of the two. A new one begins; readers see the
    -- hole. If that is not it, the next error stands.
    redis.call('DEL', history)
    added = add()
    if type(added) == 'table' and added.err then
      error(added.err)
    end
  end
end

-- The oldest go, an eighth at a time, while there are too many bytes. As it reads an entry, it looks only whenever another
-- 64th of the bound was added.
local function bound_history()
  if bytes == bytes_before then
    return
  end
  redis.call('HSET', stream, 'bytes', whole(bytes))
  local step = history_bytes / 64
  if math.floor(bytes / step) == math.floor(bytes_before / step) then
    return
  end
  while true do
    local oldest = redis.call('XRANGE', history, '-', '+', 'COUNT', 1)[1]
    if not oldest or bytes - tonumber(oldest[2][4]) <= history_bytes then
      return
    end
    local length = redis.call('XLEN', history)
    redis.call('XTRIM', history, 'MAXLEN', length - math.ceil(length / 8))
  end
end

-- entry: {sent at, payload, channels ...}
local function send(place, entry)
  local frame = epoch .. ':' .. place .. ':' .. entry[1] .. '\n' .. entry[2]
  for i = 3, #entry do
    redis.call('PUBLISH', entry[i], frame)
  end
end

local function send_passing(entry)
  send('~' .. whole(redis.call('HINCRBY', stream, 'passing', 1)), entry)
end

local function send_kept(entry)
  local offset = redis.call('HINCRBY', stream, 'offset', 1)
  remember(offset, entry[2])
  send(whole(offset), entry)
end

local function set_head(head_key, seq)
  redis.call('SET', head_key, whole(seq), 'EX', head_ttl)
end

-- Sends those whose elders have all gone out by now; returns the head.
local function release(head_key, parked_key, head)
  if redis.call('EXISTS', parked_key) == 0 then
    return head
  end
  while true do
    local field = whole(head + 1)
    local packed = redis.call('HGET', parked_key, field)
    if not packed then
      return head
    end
    send_kept(cmsgpack.unpack(packed))
    head = head + 1
    set_head(head_key, head)
    redis.call('HDEL', parked_key, field)
  end
end

-- Where the conversation stands; nil if nobody knows. A voucher moves the head ahead, never back: a head behind it
-- is what is left of a Redis that lost its last writes.
local function stand(head_key, parked_key, seq, begins_at)
  local head = tonumber(redis.call('GET', head_key) or nil)
  local vouched = begins_at - 1
  if vouched >= 0 and (not head or vouched > head) then
    if head then
      for passed = head + 1, math.min(vouched, head + window) do
        redis.call('HDEL', parked_key, whole(passed))
      end
    end
    set_head(head_key, vouched)
    return release(head_key, parked_key, vouched)
  end
  if not head and seq == 1 then
    return 0
  end
  return head
end

local function publish_in_order(head_key, parked_key, seq, begins_at, entry)
  local head = stand(head_key, parked_key, seq, begins_at)
  if not head then
    return 4
  end
  if seq <= head then
    return 2
  end
  if seq > head + 1 then
    if seq <= head + window then
      redis.call('HSET', parked_key, whole(seq), cmsgpack.pack(entry))
      redis.call('EXPIRE', parked_key, parked_ttl)
    end
    return 3
  end
  send_kept(entry)
  set_head(head_key, seq)
  release(head_key, parked_key, seq)
  return 1
end

local outcomes = {}
local key = 3
local arg = 8
while arg <= #ARGV do
  local seq = tonumber(ARGV[arg])
  local begins_at = tonumber(ARGV[arg + 1])
  local channels = tonumber(ARGV[arg + 2])
  local payload = arg + 3 + channels
  local entry = { sent_at, ARGV[payload] }
  for i = arg + 3, payload - 1 do
    entry[#entry + 1] = ARGV[i]
  end
  if seq == 0 then
    send_passing(entry)
    outcomes[#outcomes + 1] = 1
  else
    outcomes[#outcomes + 1] = publish_in_order(KEYS[key], KEYS[key + 1], seq, begins_at, entry)
    key = key + 2
  end
  arg = payload + 1
end
bound_history()
return outcomes
