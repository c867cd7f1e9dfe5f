#!lua flags=allow-oom
-- ARGV: me, most tasks, most bytes, ended before, results of what ended before, most at a time.
-- Drops ended tasks, oldest first, and the results of others. Answers how many records and how many results went.
local most, bytes, before, stale, limit = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local count, held = redis.call('ZCARD', key('ended')), tonumber(redis.call('GET', key('bytes')) or '0')
local dropped, emptied = 0, 0
local rows = redis.call('ZRANGE', key('ended'), 0, limit - 1, 'WITHSCORES')
for n = 1, #rows, 2 do
  local id = rows[n]
  if count <= most and held <= bytes and tonumber(rows[n + 1]) >= before then break end
  local fields = redis.call('HMGET', task_key(id), 'k', 'x', 'z')
  if fields[1] and fields[1] ~= '' and redis.call('GET', key('key:' .. fields[1])) == id then redis.call('DEL', key('key:' .. fields[1])) end
  count_blobs(fields[2], -1)
  redis.call('DEL', task_key(id))
  redis.call('ZREM', key('ended'), id)
  redis.call('ZREM', key('results'), id)
  redis.call('ZREM', key('ids'), id)
  count, held, dropped = count - 1, redis.call('DECRBY', key('bytes'), fields[3] or 0), dropped + 1
end
for _, id in ipairs(redis.call('ZRANGE', key('results'), '-inf', '(' .. ARGV[5], 'BYSCORE', 'LIMIT', 0, limit)) do
  local fields = redis.call('HMGET', task_key(id), 'x', 'z')
  count_blobs(fields[1], -1)
  redis.call('HDEL', task_key(id), 'o')
  redis.call('HSET', task_key(id), 'x', '', 'z', 0)
  redis.call('DECRBY', key('bytes'), fields[2] or 0)
  redis.call('ZREM', key('results'), id)
  emptied = emptied + 1
end
return {dropped, emptied}
