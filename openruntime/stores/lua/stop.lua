#!lua flags=allow-oom
-- ARGV: me, id. Asks the gateway that has the task to stop it; 0 where no other has it. That somebody asked outlives the gateway.
local fields = redis.call('HMGET', task_key(ARGV[2]), 's', 'g')
if fields[1] ~= 'l' and fields[1] ~= 'r' then return 0 end
redis.call('HSET', task_key(ARGV[2]), 'c', '1')
if fields[2] == me then return 0 end
redis.call('PUBLISH', key('news'), 'c' .. ARGV[2])
return 1
