#!lua flags=allow-oom
-- ARGV: me, lease, limit, seconds, lanes. The best of all these lanes, as long as their predicted seconds are together not more than asked for.
local lease, limit, seconds = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local waiting = {}
for n = 5, #ARGV do
  local rows = redis.call('ZRANGE', lane_key(ARGV[n]), 0, limit - 1, 'WITHSCORES')
  for at = 1, #rows, 2 do waiting[#waiting + 1] = {rows[at], tonumber(rows[at + 1]), ARGV[n]} end
end
table.sort(waiting, function(a, b) if a[2] == b[2] then return a[1] < b[1] end return a[2] < b[2] end)
local taken, work, expiry = {}, 0, now() + lease
for n = 1, math.min(limit, #waiting) do
  local id = waiting[n][1]
  local fields = redis.call('HMGET', task_key(id), 'u', 'm', 'i', 'c', 'f')
  work = work + tonumber(fields[5])
  if n > 1 and work > seconds then break end
  redis.call('ZREM', lane_key(waiting[n][3]), id)
  redis.call('HSET', task_key(id), 's', 'l', 'g', me)
  redis.call('HDEL', task_key(id), 'd')
  redis.call('ZADD', key('leases'), expiry, id)
  local mine = fields[1] == me
  taken[n] = {id, redis.call('HINCRBY', task_key(id), 'a', 1), fields[4] or '', mine and '' or fields[2], mine and '' or fields[3]}
end
return {taken, heads()}
