#!lua flags=allow-oom
-- ARGV: me, ids. A gateway that stops gives back what it holds: others take it at their next renewal.
for n = 2, #ARGV do
  if redis.call('HGET', task_key(ARGV[n]), 'g') == me then
    local fields = redis.call('HMGET', task_key(ARGV[n]), 's', 'l', 'r')
    if fields[1] == 'h' then
      redis.call('ZADD', key('leases'), 0, ARGV[n])
    elseif fields[1] == 'l' or fields[1] == 'r' then
      redis.call('ZREM', key('leases'), ARGV[n])
      redis.call('HSET', task_key(ARGV[n]), 's', 'w', 'g', '')
      redis.call('HDEL', task_key(ARGV[n]), 'd')
      enqueue(ARGV[n], fields[2], fields[3])
    end
  end
end
return 1
