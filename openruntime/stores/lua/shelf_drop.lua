#!lua flags=allow-oom
-- ARGV: me, namespace, most bytes (empty: no bound), names used lately: oldest first; or, with no bound, names to delete.
-- Drops what has expired and, beyond the bound, what was used least recently; answers how many (of those named, where there is no bound).
local space = 'shelf:' .. ARGV[2]
local bound, at = tonumber(ARGV[3]), now()
local function drop(name)
  local entry = key(space .. ':' .. name)
  local fields = redis.call('HMGET', entry, 'x', 'z', 'e')
  if not fields[2] then return 0 end
  count_blobs(fields[1], -1)
  redis.call('DEL', entry)
  redis.call('ZREM', key(space .. '|names'), name)
  redis.call('ZREM', key(space .. '|used'), name)
  redis.call('ZREM', key(space .. '|expires'), name)
  redis.call('DECRBY', key(space .. '|bytes'), fields[2])
  return tonumber(fields[3]) > at and 1 or 0
end
local dropped = 0
if not bound then
  for n = 4, #ARGV do dropped = dropped + drop(ARGV[n]) end
  return dropped
end
for n = 4, #ARGV do redis.call('ZADD', key(space .. '|used'), 'XX', micros() + n, ARGV[n]) end
for _, name in ipairs(redis.call('ZRANGE', key(space .. '|expires'), '-inf', at, 'BYSCORE', 'LIMIT', 0, 500)) do
  drop(name)
  dropped = dropped + 1
end
while tonumber(redis.call('GET', key(space .. '|bytes')) or '0') > bound and dropped < 1000 do
  local name = redis.call('ZRANGE', key(space .. '|used'), 0, 0)[1]
  if not name then break end
  drop(name)
  dropped = dropped + 1
end
return dropped
