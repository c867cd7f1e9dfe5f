-- Goes before every script. KEYS[1] is the prefix of all keys; ARGV[1] the id of the gateway that asks. Times are Redis's own, in milliseconds.
-- A task is a hash: s state (w waiting, l leased, r removed, h held for its needs, e ended), l lane, r rank, m record, i inputs, o outputs,
-- a attempts, g who holds it, u who wrote the record, c somebody wants it stopped, d what its holder says of it, f predicted seconds,
-- x digests of its blobs, k its idempotency key, z bytes of its result.
local p, me = KEYS[1], ARGV[1]
local function key(name) return p .. ':' .. name end
local function lane_key(lane) return p .. ':lane:' .. lane end
local function task_key(id) return p .. ':task:' .. id end

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function micros()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

-- When this was so, in microseconds, and every lane where tasks wait, how many, and the first of them with its record.
local function heads()
  local found = {string.format('%.0f', micros())}
  for _, lane in ipairs(redis.call('SMEMBERS', key('lanes'))) do
    local first = redis.call('ZRANGE', lane_key(lane), 0, 0)[1]
    if first then
      found[#found + 1] = {lane, redis.call('ZCARD', lane_key(lane)), first, redis.call('HGET', task_key(first), 'm')}
    end
  end
  return found
end

-- Let a task wait in a lane; the other gateways hear of it where they may think that nothing waits there.
local function enqueue(id, lane, rank)
  redis.call('ZADD', lane_key(lane), rank, id)
  if redis.call('ZCARD', lane_key(lane)) == 1 then
    redis.call('SADD', key('lanes'), lane)
    redis.call('PUBLISH', key('news'), 'w' .. me)
  end
end

local function count_blobs(list, by)
  if not list or list == '' then return end
  for _, digest in ipairs(cjson.decode(list)) do
    if redis.call('HINCRBY', key('blobs'), digest, by) <= 0 then redis.call('HDEL', key('blobs'), digest) end
  end
end
