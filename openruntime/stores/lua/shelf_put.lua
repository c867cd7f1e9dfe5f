#!lua
-- ARGV: me, namespace, key, seconds, tenant, meta, arrays, blobs, size, '=' and the meta to be replaced.
local space, name = 'shelf:' .. ARGV[2], ARGV[3]
local entry = key(space .. ':' .. name)
local old = redis.call('HMGET', entry, 'x', 'z')
if ARGV[10] ~= '' then
  local there = redis.call('HMGET', entry, 'm', 'e')
  if not there[1] or tonumber(there[2]) <= now() or '=' .. there[1] ~= ARGV[10] then return 0 end
end
count_blobs(ARGV[8], 1)
count_blobs(old[1], -1)
redis.call('HSET', entry, 'm', ARGV[6], 'a', ARGV[7], 't', ARGV[5], 'x', ARGV[8], 'z', ARGV[9], 'e', string.format('%.0f', now() + ARGV[4] * 1000))
redis.call('ZADD', key(space .. '|names'), 0, name)
redis.call('ZADD', key(space .. '|used'), micros(), name)
redis.call('ZADD', key(space .. '|expires'), now() + ARGV[4] * 1000, name)
redis.call('INCRBY', key(space .. '|bytes'), ARGV[9] - (old[2] or 0))
return 1
