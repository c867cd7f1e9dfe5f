#!lua flags=allow-oom
-- ARGV: me, lease, id. A waiting task is out of the queue, and this gateway's to end.
local id = ARGV[3]
local fields = redis.call('HMGET', task_key(id), 's', 'l')
local state = fields[1]
if state ~= 'w' and state ~= 'h' then return {0, heads()} end
redis.call('ZREM', lane_key(fields[2]), id)
redis.call('SREM', key('held'), id)
redis.call('HSET', task_key(id), 's', 'r', 'g', me)
redis.call('ZADD', key('leases'), now() + tonumber(ARGV[2]), id)
return {1, heads()}
