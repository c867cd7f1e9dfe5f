#!lua flags=allow-oom
-- ARGV: me, id, attempt, record, outputs, blobs, finished, size, a name of this call. 0 where the attempt is stale; 1 again where the answer got lost.
local id, attempt = ARGV[2], ARGV[3]
local fields = redis.call('HMGET', task_key(id), 's', 'a', 'g', 'l', 'x')
local state, lane = fields[1], fields[4]
if not state or fields[2] ~= attempt then return 0 end
if state == 'e' then return fields[3] == ARGV[9] and 1 or 0 end
if (state == 'l' or state == 'r') and fields[3] ~= me then return 0 end
if state == 'w' then redis.call('ZREM', lane_key(lane), id) else redis.call('ZREM', key('leases'), id) end
if state == 'h' then redis.call('SREM', key('held'), id) end
count_blobs(ARGV[6], 1)
count_blobs(fields[5], -1)
redis.call('HDEL', task_key(id), 'i', 'd', 'c')
if ARGV[5] ~= '' then
  redis.call('HSET', task_key(id), 's', 'e', 'g', ARGV[9], 'u', me, 'm', ARGV[4], 'x', ARGV[6], 'z', ARGV[8], 'o', ARGV[5])
  redis.call('ZADD', key('results'), ARGV[7], id)
else
  redis.call('HSET', task_key(id), 's', 'e', 'g', ARGV[9], 'u', me, 'm', ARGV[4], 'x', '', 'z', 0)
end
redis.call('ZADD', key('ended'), ARGV[7], id)
redis.call('INCRBY', key('bytes'), ARGV[8])
return 1
