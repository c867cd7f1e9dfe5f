#!lua
-- ARGV: me, lease, bound, number, then for each: id, state, lane, rank, predicted, record, inputs, outputs, blobs, key, finished, size.
-- All or none. What is there already was sent before, and its answer got lost.
local lease, bound, number = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local function field(n, k) return ARGV[4 + (n - 1) * 12 + k] end
local new, fresh = 0, {}
for n = 1, number do
  local id, idempotency = field(n, 1), field(n, 10)
  fresh[n] = redis.call('EXISTS', task_key(id)) == 0
  if fresh[n] and field(n, 2) ~= 'e' then new = new + 1 end
  if idempotency ~= '' then
    local other = redis.call('GET', key('key:' .. idempotency))
    if other and other ~= id and redis.call('EXISTS', task_key(other)) == 1 then return {'taken', other} end
  end
end
if new > 0 then
  local waiting = redis.call('SCARD', key('held'))
  for _, lane in ipairs(redis.call('SMEMBERS', key('lanes'))) do waiting = waiting + redis.call('ZCARD', lane_key(lane)) end
  if waiting + new > bound then return {'full', waiting} end
end
for n = 1, number do
  if fresh[n] then
    local id, state, lane, rank, blobs, idempotency, size = field(n, 1), field(n, 2), field(n, 3), field(n, 4), field(n, 9), field(n, 10), field(n, 12)
    redis.call('HSET', task_key(id), 's', state, 'l', lane, 'r', rank, 'f', field(n, 5), 'm', field(n, 6), 'a', 0, 'u', me, 'x', blobs,
      'k', idempotency, 'z', size, state == 'e' and 'o' or 'i', state == 'e' and field(n, 8) or field(n, 7))
    count_blobs(blobs, 1)
    redis.call('ZADD', key('ids'), 0, id)
    if idempotency ~= '' then redis.call('SET', key('key:' .. idempotency), id) end
    if state == 'e' then
      redis.call('ZADD', key('ended'), field(n, 11), id)
      redis.call('ZADD', key('results'), field(n, 11), id)
      redis.call('INCRBY', key('bytes'), size)
    else
      if state == 'h' then
        redis.call('HSET', task_key(id), 'g', me)
        redis.call('SADD', key('held'), id)
        redis.call('ZADD', key('leases'), now() + lease, id)
      else
        enqueue(id, lane, rank)
      end
    end
  end
end
return {'ok', heads()}
